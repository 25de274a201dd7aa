"""The page of `launch/chat.py --web`: one HTML file, its style and its script; nothing is loaded from elsewhere."""

HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Compare answers</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
</head>
<body>
<header>
  <h1>Compare answers</h1>
  <button id="anew" type="button">New conversation</button>
</header>
<details id="setup">
  <summary>System prompt</summary>
  <textarea id="system" rows="2" maxlength="20000" aria-label="System prompt" placeholder="none"></textarea>
</details>
<main id="sides" aria-live="polite"></main>
<p id="note" role="status"></p>
<div id="rating" hidden></div>
<form id="ask">
  <textarea id="text" rows="3" maxlength="20000" aria-label="Your question" placeholder="Ask something"></textarea>
  <button id="send" type="submit">Send</button>
</form>
<script src="/page.js"></script>
</body>
</html>
"""

CSS = """
:root { color-scheme: light dark;
  --line: light-dark(#d5d7dc, #3b3f47); --soft: light-dark(#f3f4f6, #23262c); --accent: light-dark(#1f5fbf, #7fb0ff); }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.25rem; max-width: 78rem; min-height: 100vh; display: flex; flex-direction: column; gap: .75rem;
  font: 16px/1.5 system-ui, sans-serif; }
header { display: flex; align-items: center; justify-content: space-between; }
h1 { font-size: 1.25rem; margin: 0; }
h2 { font-size: 1rem; margin: 0; padding: .5rem .9rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
main { flex: 1; display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem; align-items: stretch; }
section { border: 1px solid var(--line); border-radius: .6rem; display: flex; flex-direction: column; min-height: 16rem; }
section.preferred { border-color: var(--accent); outline: 1px solid var(--accent); }
.turns { padding: .9rem; display: flex; flex-direction: column; gap: .7rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.user { align-self: flex-end; max-width: 90%; background: var(--soft); border-radius: .6rem; padding: .4rem .8rem; }
.writing::after { content: "\\25CF"; opacity: .5; margin-left: .2rem; }
#rating { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: center; }
[hidden] { display: none !important; }
#note { margin: 0; text-align: center; min-height: 1.5em; }
form { display: flex; gap: .6rem; position: sticky; bottom: 0; padding: .5rem 0; background: Canvas; }
textarea, button { font: inherit; border: 1px solid var(--line); border-radius: .6rem; }
textarea { flex: 1; width: 100%; padding: .5rem .7rem; resize: vertical; }
button { padding: .45rem 1rem; background: var(--soft); cursor: pointer; }
button:hover:enabled { border-color: var(--accent); }
button:disabled, textarea:disabled { opacity: .5; cursor: default; }
#send { background: var(--accent); color: Canvas; border-color: var(--accent); }
"""

JS = """
"use strict";
const at = (id) => document.getElementById(id);
let conversation = null, columns = [], busy = false;

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  node.className = className || "";
  node.textContent = text || "";  // never innerHTML: answers and questions are text
  return node;
};

const post = async (path, body) => {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
};

const state = () => {
  at("send").disabled = at("anew").disabled = busy;
  at("text").disabled = busy;
  for (const button of at("rating").children) button.disabled = busy;
};

async function anew() {
  const answer = await (await post("/api/start", { system: at("system").value })).json();
  conversation = answer.id;
  const names = answer.sides === 2 ? ["Model A", "Model B"] : ["The model"];
  columns = names.map((name) => {
    const section = make("section"), title = make("h2", "", name), turns = make("div", "turns");
    section.append(title, turns);
    return { section, title, turns };
  });
  at("sides").replaceChildren(...columns.map((column) => column.section));
  const choices = answer.sides === 2
    ? [["left", "A is better"], ["right", "B is better"], ["tie", "Both are good"], ["neither", "Neither is good"]]
    : [["left", "Good"], ["neither", "Not good"]];
  at("rating").replaceChildren(...choices.map(([choice, label]) => {
    const button = make("button", "", label);
    button.type = "button";
    button.dataset.choice = choice;
    button.onclick = () => rate(choice);
    return button;
  }));
  at("rating").hidden = true;
  at("ask").hidden = false;
  at("setup").hidden = false;
  at("note").textContent = "";
  at("text").focus();
}

async function ask(text) {
  busy = true;
  state();
  const written = columns.map((column) => {
    const question = make("div", "user", text), answer = make("div", "assistant writing");
    column.turns.append(question, answer);
    return { question, answer };
  });
  let failed = null;
  try {
    const reader = (await post("/api/ask", { id: conversation, text })).body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", ended = false;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\\n");
      rest = lines.pop();
      for (const line of lines.map((line) => JSON.parse(line))) {
        if (line.error) failed = line.error;
        else if (line.end) ended = true;
        else if (line.done) written[line.side].answer.classList.remove("writing");
        else written[line.side].answer.textContent += line.piece;
      }
    }
    if (!ended && !failed) failed = "the answer was cut off";
  } catch (error) {
    failed = error.message;
  }
  busy = false;
  for (const { question, answer } of written) {
    answer.classList.remove("writing");
    if (failed) { question.remove(); answer.remove(); }
  }
  if (failed) at("text").value = text;
  else at("setup").hidden = true;
  at("note").textContent = failed || "";
  at("rating").hidden = Boolean(failed) && !columns[0].turns.children.length;
  state();
  at("text").focus();
}

async function rate(choice) {
  busy = true;
  state();
  try {
    const { models } = await (await post("/api/rate", { id: conversation, choice })).json();
    models.forEach((name, side) => { columns[side].title.textContent += ": " + name; });
    const better = { left: [0], right: [1], tie: [0, 1], neither: [] }[choice];
    for (const side of better) if (columns[side]) columns[side].section.classList.add("preferred");
    at("rating").hidden = at("ask").hidden = true;
    at("note").textContent = "Saved, thank you.";
  } catch (error) {
    at("note").textContent = error.message;
  }
  busy = false;
  state();
}

at("ask").onsubmit = (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || busy) return;
  at("text").value = "";
  ask(text);
};
at("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("ask").requestSubmit(); }
};
at("anew").onclick = () => anew().catch((error) => { at("note").textContent = error.message; });
at("system").onchange = () => anew().catch((error) => { at("note").textContent = error.message; });
anew().catch((error) => { at("note").textContent = error.message; });
"""
