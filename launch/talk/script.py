"""What the page of `launch/chat.py --web` does."""

JS = """
"use strict";
const at = (id) => document.getElementById(id);
const KEY = "astrollama.conversation", VERSION = 1;
const GONE = "The server does not answer: it was stopped, or the network is down. Nothing you typed is lost; try again when it is back.";
let kept = null;  // what outlives a reload: {version, id, models, system, sides: [[{question, answer, cut, tokens, left_out}]], rated, draft}
let limits = { context: null, answer: 0, longest: 0 };
const store = {  // a browser that keeps nothing throws
  get: (key) => { try { return sessionStorage.getItem(key); } catch (error) { return null; } },
  set: (key, value) => { try { sessionStorage.setItem(key, value); return true; } catch (error) { return false; } },
};
let plain = store.get("astrollama.plain") === "yes", painters = [];
let columns = [], busy = false, request = null, retry = null;

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  node.className = className || "";
  node.textContent = text || "";  // never innerHTML: questions and names are text, answers go through format()
  return node;
};

class Refused extends Error { constructor(message, status) { super(message); this.status = status; } }

const post = async (path, body, signal) => {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  } catch (error) {
    throw new Error(GONE);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refused(told.error || `The server failed (status ${response.status}); what it printed tells more.`, response.status);
};

// --- kept over a reload: in this tab alone, so that two tabs do not write over each other

const keep = () => {
  if (!kept) return;
  kept.draft = at("text").value;
  if (!store.set(KEY, JSON.stringify(kept)) && kept.sides[0].length) say("The browser does not keep this conversation: a reload would lose it.");
};

const recall = () => {
  try {
    const value = JSON.parse(store.get(KEY));
    return value && value.version === VERSION && Array.isArray(value.sides) ? value : null;
  } catch (error) {
    return null;
  }
};

// --- what is seen

const state = () => {
  at("send").disabled = at("anew").disabled = at("system").disabled = busy;
  at("send").hidden = busy;
  at("stop").hidden = !busy || !request;
  for (const button of at("rating").children) button.disabled = busy;
};

const say = (text, action) => {
  at("note").textContent = text || "";
  retry = action || null;
  at("again").hidden = !retry;
};

const view = at("view");
let follow = true, tail = at("end");
const below = () => tail.getBoundingClientRect().bottom - view.getBoundingClientRect().bottom > 48;
const keepUp = () => {
  if (follow) tail.scrollIntoView({ block: "nearest" });
  at("down").hidden = !below();
};
view.onscroll = () => { follow = !below(); at("down").hidden = follow; };
at("down").onclick = () => { follow = true; keepUp(); };
new ResizeObserver(keepUp).observe(view);

const number = (value) => value.toLocaleString("en");

const label = (exchange) => {
  const parts = [];
  if (exchange.cut === "length") parts.push(`Cut off: the longest answer is ${number(limits.answer)} tokens (--max-new-tokens N allows more).`);
  if (exchange.cut === "stopped") parts.push("Stopped here.");
  if (exchange.left_out) parts.push(`The first ${exchange.left_out} messages were left out: the model's context does not hold them.`);
  if (exchange.tokens) parts.push(`${number(exchange.tokens)} tokens read.`);
  return parts.join(" ");
};

const add = (column, exchange) => {
  const question = make("div", "user", exchange.question), answer = make("div", "assistant"), mark = make("p", "mark");
  const told = () => {
    mark.textContent = label(exchange);
    mark.classList.toggle("cut", Boolean(exchange.cut || exchange.left_out));
  };
  let due = 0, took = 0;
  const paint = () => {
    clearTimeout(due);
    due = 0;
    const begun = performance.now();
    if (plain) { answer.classList.add("plain"); answer.textContent = exchange.answer; }
    else format(answer, exchange.answer);
    took = performance.now() - begun;
  };
  const grow = () => { due = due || setTimeout(() => { paint(); keepUp(); }, Math.max(40, 4 * took)); };  // a long answer more seldom
  told();
  paint();
  column.turns.append(question, answer, mark);
  painters.push(paint);
  return { exchange, question, answer, mark, told, paint, grow };
};

const names = (count) => (count === 2 ? ["Model A", "Model B"] : ["The model"]);

const draw = () => {
  painters = [];
  columns = names(kept.sides.length).map((name) => {
    const section = make("section"), title = make("h2", "", name), turns = make("div", "turns");
    section.append(title, turns);
    return { section, title, turns };
  });
  columns.forEach((column, side) => kept.sides[side].forEach((exchange) => add(column, exchange)));
  at("sides").replaceChildren(...columns.map((column) => column.section));
  const choices = kept.sides.length === 2
    ? [["left", "A is better"], ["right", "B is better"], ["tie", "Both are good"], ["neither", "Neither is good"]]
    : [["left", "Good"], ["neither", "Not good"]];
  at("rating").replaceChildren(...choices.map(([choice, text]) => {
    const button = make("button", "", text);
    button.type = "button";
    button.dataset.choice = choice;
    button.onclick = () => rate(choice);
    return button;
  }));
  const comment = make("textarea");
  Object.assign(comment, { id: "comment", rows: 1, maxLength: 4000, placeholder: "Why? (may be left empty)" });
  comment.setAttribute("aria-label", "Why, in a sentence; may be left empty");
  at("rating").prepend(comment);
  if (kept.rated) {
    kept.rated.models.forEach((name, side) => { columns[side].title.textContent += ": " + name; });
    const better = { left: [0], right: [1], tie: [0, 1], neither: [] }[kept.rated.choice];
    for (const side of better) if (columns[side]) columns[side].section.classList.add("preferred");
  }
  const begun = kept.sides[0].length > 0;
  at("rating").hidden = !begun || Boolean(kept.rated);
  at("ask").hidden = Boolean(kept.rated);
  at("setup").hidden = begun;
  follow = true;
  tail = at("end");
  keepUp();
};

// --- what is done

const begin = (about, system, sides) => {
  limits = about;
  kept = { version: VERSION, id: about.id, models: about.models, limits, system, sides, rated: null, draft: "" };
};

async function anew() {
  const system = at("system").value;
  const about = await (await post("/api/start", { system })).json();
  begin(about, system, Array.from({ length: about.sides }, () => []));
  draw();
  say("");
  keep();
  at("text").focus();
}
const again = () => anew().catch((error) => say(error.message, again));

// the server forgets its conversations when it ends: this page tells it what was said
async function restore() {
  const { id, models, system } = kept;
  const sides = kept.sides.map((side) => side.map(({ question, answer, cut }) => [question, answer, cut || null]));
  const about = await (await post("/api/restore", { id, models, system, sides })).json();
  limits = kept.limits = about;
  if (about.kept[0].length === kept.sides[0].length) return;
  const last = about.kept[0].at(-1);
  if (last && last[0] === at("text").value.trim()) at("text").value = "";  // it was answered while the page was loaded anew
  kept.sides = about.kept.map((side) => side.map(([question, answer, cut]) => ({ question, answer, cut })));
  draw();
}

async function known(path, body, signal) {
  try {
    return await post(path, body, signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    await restore();
    return await post(path, body, signal);
  }
}

async function resume() {
  kept = recall();
  if (!kept) return again();
  try {
    limits = kept.limits;
    at("system").value = kept.system;
    at("text").value = kept.draft || "";
    draw();
  } catch (error) {  // not what this page wrote
    return again();
  }
  if (kept.rated) return;
  const back = async () => {
    try {
      await restore();
      say("");
      measure();
    } catch (error) {
      say(error.message, error.status === 410 ? null : back);
      if (error.status === 410) at("ask").hidden = at("rating").hidden = true;
    }
  };
  await back();
}

async function stream(text, written, signal) {
  const response = await known("/api/ask", { id: kept.id, text }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(() => { throw new Error(GONE); });
    if (done) throw new Error(GONE);
    const lines = (rest + value).split("\\n");
    rest = lines.pop();
    for (const line of lines.map((line) => JSON.parse(line))) {
      if (line.error) throw new Refused(line.error, 200);
      if (line.end) return;
      if (line.waiting !== undefined) {
        say(`${line.waiting === 1 ? "One question is" : `${line.waiting} questions are`} in line before yours.`);
        continue;
      }
      if (line.tokens !== undefined) say("");
      const { exchange, answer, mark, told, paint, grow } = written[line.side];
      if (line.tokens !== undefined) Object.assign(exchange, { tokens: line.tokens, left_out: line.left_out });
      else if (line.done) { exchange.cut = line.cut; answer.classList.remove("writing"); paint(); told(); }
      else { exchange.answer += line.piece; grow(); }
      tail = mark;
      keepUp();
    }
  }
}

async function ask(text) {
  for (const old of document.querySelectorAll(".unkept")) old.remove();
  busy = true;
  request = new AbortController();
  say("");
  at("size").textContent = "";
  state();
  const written = columns.map((column) => add(column, { question: text, answer: "" }));
  for (const { answer } of written) answer.classList.add("writing");
  tail = written[0].mark;
  follow = true;
  keepUp();
  at("text").value = text;  // until it is answered, a reload finds it in the box
  keep();
  at("text").value = "";
  let failed = null;
  try {
    await stream(text, written, request.signal);
    written.forEach(({ exchange }, side) => kept.sides[side].push(exchange));
  } catch (error) {
    failed = error;
  }
  busy = false;
  request = null;
  for (const { exchange, question, answer, mark, paint } of written) {
    paint();
    answer.classList.remove("writing");
    if (!failed) continue;
    if (!exchange.answer) { question.remove(); answer.remove(); mark.remove(); continue; }
    for (const node of [question, answer, mark]) node.classList.add("unkept");
    mark.classList.add("cut");
    mark.textContent = "Broken off, not kept: the next question is asked without it.";
  }
  if (failed) at("text").value = [text, at("text").value].filter(Boolean).join("\\n");
  say(failed && failed.message, failed && !failed.status ? resend : null);
  const begun = kept.sides[0].length > 0;
  at("setup").hidden = begun;
  at("rating").hidden = !begun;
  tail = at("end");
  keep();
  state();
  keepUp();
  measure();
  at("text").focus();
}

// the answer may be known to the server though its end did not arrive: then it is not asked for twice
async function resend() {
  try {
    await restore();
  } catch (error) {
    return say(error.message, error.status === 410 ? null : resend);
  }
  if (at("text").value.trim()) at("ask").requestSubmit();
}

async function rate(choice) {
  busy = true;
  state();
  try {
    const { models } = await (await known("/api/rate", { id: kept.id, choice, comment: at("comment").value })).json();
    kept.rated = { models, choice };
    draw();
    say("Saved, thank you.");
    keep();
  } catch (error) {
    say(error.message, error.status ? null : () => rate(choice));
  }
  busy = false;
  state();
}

// a long text is measured before it is sent
let timer = 0, round = 0;
function measure() {
  clearTimeout(timer);
  const text = at("text").value.trim(), mine = ++round;
  at("send").disabled = busy || text.length > limits.longest && limits.longest > 0;
  if (text.length <= Math.min(2000, limits.context || 2000)) { at("size").textContent = ""; return; }
  const head = `${number(text.length)} characters`;
  if (text.length > limits.longest) {
    at("size").textContent = `${head}: too long to send; ${number(limits.longest)} are the most.`;
    return;
  }
  at("size").textContent = `${head}, about ${number(Math.ceil(text.length / 4))} tokens.`;
  timer = setTimeout(async () => {
    try {
      const { tokens, left_out, fits } = await (await known("/api/count", { id: kept.id, text })).json();
      if (mine !== round) return;
      const held = limits.context ? `; the model holds ${number(limits.context)}, ${number(limits.answer)} of them for its answer` : "";
      const then = !fits ? " Too long: shorten the text." : left_out ? ` The first ${left_out} messages will be left out.` : "";
      at("size").textContent = `${head}, ${number(tokens)} tokens with the conversation${held}.${then}`;
    } catch (error) {
      if (mine === round) at("size").textContent = `${head}. ${error.message}`;
    }
  }, 300);
}

at("ask").onsubmit = (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (text && !busy && kept && !at("send").disabled) ask(text);
  else if (text && !busy && !kept) again();
};
at("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("ask").requestSubmit(); }
};
at("text").oninput = () => { measure(); if (!busy) keep(); };
at("stop").onclick = () => {
  const one = request;
  post("/api/stop", { id: kept.id }).catch(() => one && one.abort());
};
at("again").onclick = () => { const action = retry; say(""); if (action) action(); };
at("anew").onclick = again;
const pressed = () => at("plain").setAttribute("aria-pressed", plain);
at("plain").onclick = () => {
  plain = !plain;
  store.set("astrollama.plain", plain ? "yes" : "no");
  pressed();
  for (const paint of painters) paint();
  keepUp();
};
pressed();
at("system").onchange = again;
state();
resume();
"""
