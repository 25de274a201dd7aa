"""How the page shows an answer: Markdown and formulas, by scripts that lie in vendor/; an answer can do nothing but be read.

Three walls: HTML in an answer is shown as text, what Markdown makes of the rest passes an allow-list, and the page's Content-Security-Policy
runs no script and loads no picture. Formulas become MathML, which browsers draw with their own fonts.
"""

from pathlib import Path

FOLDER = Path(__file__).with_name("vendor")
VENDOR = ("marked-18.2.1.js", "dompurify-3.4.18.js", "katex-0.19.1.js")

JS = r"""
"use strict";
// format(node, text): the text as Markdown in place of what the node held; as it is where a script of vendor/ is missing
const format = (() => {
  if (typeof marked === "undefined" || typeof DOMPurify === "undefined" || typeof katex === "undefined")
    return (node, text) => { node.classList.add("plain"); node.textContent = text; };
  const escape = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const formula = (name, level, starts, patterns) => ({
    name, level,
    start: (source) => { const at = source.search(starts); return at < 0 ? undefined : at; },
    tokenizer: (source) => {
      for (const pattern of patterns) {
        const found = pattern.exec(source);
        if (found && found[1].trim()) return { type: name, raw: found[0], text: found[1] };
      }
    },
    renderer: (token) => {
      const html = `<span class="${name}" title="${escape(token.raw.trim())}">${escape(token.text.trim())}</span>`;
      return level === "block" ? `<p>${html}</p>` : html;
    },
  });
  // a dollar of money opens no formula: one begins right after its sign and ends right before it, and no digit follows
  const display = [/^\$\$([^]+?)\$\$/, /^\\\[([^]+?)\\\]/];
  const inline = [/^\$(?![\s$])((?:[^$\\\n]|\\[^]|\n(?!\n))*?[^\s\\$])\$(?!\d)/, /^\\\(([^]+?)\\\)/];
  const parser = new marked.Marked({
    gfm: true,
    extensions: [
      formula("displayed", "block", /\$\$|\\\[/, display),
      formula("displayed", "inline", /\$\$|\\\[/, display),
      formula("inlined", "inline", /\$|\\\(/, inline),
    ],
    renderer: {
      html: (token) => escape(token.raw),
      image: (token) => `<a href="${escape(token.href)}">[picture: ${escape(token.text || token.href)}]</a>`,
      checkbox: (token) => (token.checked ? "\u2611 " : "\u2610 "),
    },
  });
  const allowed = {
    ALLOWED_TAGS: ["p", "br", "hr", "em", "strong", "del", "code", "pre", "blockquote", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6",
      "a", "table", "thead", "tbody", "tr", "th", "td", "span"],
    ALLOWED_ATTR: ["href", "title", "class", "align", "start"],
    ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
    RETURN_DOM_FRAGMENT: true,
  };
  const drawn = new Map();  // formulas of an answer that still grows are drawn once
  const draw = (tex, displayMode) => {
    const key = `${displayMode}${tex}`;
    if (!drawn.has(key)) {
      const span = document.createElement("span");
      try {
        katex.render(tex, span, { output: "mathml", displayMode, throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 200 });
      } catch (error) {
        span.replaceChildren();
      }
      if (drawn.size > 500) drawn.clear();
      drawn.set(key, span);
    }
    return drawn.get(key).firstChild && drawn.get(key).cloneNode(true);
  };
  const build = (text) => {
    const fragment = DOMPurify.sanitize(parser.parse(text), allowed);
    for (const node of fragment.querySelectorAll("[class]"))
      if (!["displayed", "inlined"].includes(node.className)) node.removeAttribute("class");  // none of the page's own
    for (const node of fragment.querySelectorAll("span.displayed, span.inlined")) {
      const math = draw(node.textContent, node.className === "displayed");
      if (math) node.replaceChildren(math);
      else node.textContent = node.title;  // no TeX that KaTeX reads: as it was written
      node.removeAttribute("title");
    }
    for (const link of fragment.querySelectorAll("a")) Object.assign(link, { target: "_blank", rel: "noopener noreferrer nofollow" });
    for (const table of fragment.querySelectorAll("table")) {
      const box = document.createElement("div");
      box.className = "wide";
      table.replaceWith(box);
      box.append(table);
    }
    return fragment;
  };
  return (node, text) => {
    try {
      node.replaceChildren(build(text));
      node.classList.remove("plain");
    } catch (error) {  // nesting deeper than the parser goes, for one
      node.classList.add("plain");
      node.textContent = text;
    }
  };
})();
"""
