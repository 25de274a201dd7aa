"""The page of `launch/chat.py --web`: one HTML file and its style; what it does is in script.py, nothing is loaded from elsewhere."""

HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1, interactive-widget=resizes-content">
<title>Compare answers</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
</head>
<body>
<header>
  <h1>Compare answers</h1>
  <button id="plain" type="button" aria-pressed="false" title="Answers as the model wrote them">Plain text</button>
  <button id="anew" type="button">New conversation</button>
</header>
<div id="view" tabindex="-1">
  <details id="setup">
    <summary>System prompt</summary>
    <textarea id="system" rows="2" aria-label="System prompt" placeholder="none"></textarea>
  </details>
  <main id="sides" aria-live="polite"></main>
  <div id="end"></div>
</div>
<footer>
  <button id="down" type="button" aria-label="Down to the newest text" title="Down to the newest text" hidden>&darr;</button>
  <p id="note" role="status"></p>
  <button id="again" type="button" hidden>Try again</button>
  <div id="rating" hidden></div>
  <p id="size" role="status"></p>
  <form id="ask">
    <textarea id="text" rows="3" aria-label="Your question" placeholder="Ask something"></textarea>
    <button id="send" type="submit">Send</button>
    <button id="stop" type="button" hidden>Stop</button>
  </form>
</footer>
<script src="/vendor/marked-18.2.1.js"></script>
<script src="/vendor/dompurify-3.4.18.js"></script>
<script src="/vendor/katex-0.19.1.js"></script>
<script src="/format.js"></script>
<script src="/page.js"></script>
</body>
</html>
"""

CSS = """
:root { color-scheme: light dark;
  --line: light-dark(#d5d7dc, #3b3f47); --soft: light-dark(#f3f4f6, #23262c); --accent: light-dark(#1f5fbf, #7fb0ff); }
* { box-sizing: border-box; }
/* the page is as high as the window: what is read scrolls in its own box, so the footer never lies over it */
body { margin: 0 auto; padding: .75rem 1.25rem; max-width: 78rem; height: 100vh; height: 100dvh; display: flex; flex-direction: column;
  gap: .6rem; font: 16px/1.5 system-ui, sans-serif; }
header { display: flex; align-items: center; justify-content: space-between; gap: .6rem; }
header h1 { margin-right: auto; }
h1 { font-size: 1.25rem; margin: 0; }
section > h2 { font-size: 1rem; margin: 0; padding: .5rem .9rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
#view { flex: 1; min-height: 5rem; overflow-y: auto; overscroll-behavior: contain; display: flex; flex-direction: column; gap: .75rem; }
#view > * { flex-shrink: 0; }
main { flex-grow: 1; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1rem; padding: 1px; }
section { border: 1px solid var(--line); border-radius: .6rem; display: flex; flex-direction: column; min-width: 0; min-height: 8rem; }
section.preferred { border-color: var(--accent); outline: 1px solid var(--accent); }
.turns { padding: .9rem; display: flex; flex-direction: column; gap: .7rem; overflow-wrap: anywhere; }
.user, .plain { white-space: pre-wrap; }
.assistant { min-width: 0; max-width: 100%; overflow-x: auto; overflow-y: hidden; }
.assistant > :first-child { margin-top: 0; }
.assistant > :last-child { margin-bottom: 0; }
.assistant :is(h1, h2, h3, h4, h5, h6) { font-size: 1.05rem; margin: 1em 0 .4em; }
.assistant :is(p, ul, ol, pre, blockquote, .wide) { margin: .6em 0; }
.assistant pre, .wide, .displayed { overflow-x: auto; max-width: 100%; }
.assistant pre { background: var(--soft); border-radius: .4rem; padding: .5rem .7rem; }
.assistant blockquote { border-left: 3px solid var(--line); padding-left: .8rem; }
.assistant :is(th, td) { border: 1px solid var(--line); padding: .2rem .5rem; overflow-wrap: normal; }
.assistant table { border-collapse: collapse; }
.assistant a { color: var(--accent); }
.displayed { display: block; padding: .5em 0; overflow-y: hidden; }

.user { align-self: flex-end; max-width: 90%; background: var(--soft); border-radius: .6rem; padding: .4rem .8rem; }
.writing::after { content: "\\25CF"; opacity: .5; margin-left: .2rem; }
.unkept { opacity: .6; }
.mark { margin: 0; font-size: .85rem; opacity: .75; min-height: 1.3em; scroll-margin-block: 1rem; }
.mark.cut { opacity: 1; border-left: 3px solid light-dark(#b26a00, #ffb454); padding-left: .5rem; }
footer { position: relative; display: flex; flex-wrap: wrap; gap: .5rem .6rem; align-items: center; justify-content: center; }
#rating { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: center; width: 100%; }
#comment { flex: 1 0 100%; max-height: 20vh; }
[hidden] { display: none !important; }
#note, #size { margin: 0; text-align: center; overflow-wrap: anywhere; }
#note:empty, #size:empty { display: none; }
#size { width: 100%; font-size: .85rem; }
#down { position: absolute; right: 1rem; bottom: calc(100% + .7rem); border-radius: 50%; width: 2.5rem; height: 2.5rem; padding: 0; }
form { display: flex; gap: .6rem; width: 100%; align-items: stretch; }
textarea, button { font: inherit; border: 1px solid var(--line); border-radius: .6rem; }
textarea { flex: 1; min-width: 0; width: 100%; padding: .5rem .7rem; resize: vertical; max-height: 40vh; }
button { padding: .45rem 1rem; background: var(--soft); cursor: pointer; }
button[aria-pressed=true] { border-color: var(--accent); color: var(--accent); }
button:hover:enabled { border-color: var(--accent); }
button:disabled, textarea:disabled { opacity: .5; cursor: default; }
#send { background: var(--accent); color: Canvas; border-color: var(--accent); }
@media (max-width: 480px) { body { padding: .5rem .6rem; } #rating button { padding: .3rem .7rem; }
  header button { padding: .25rem .5rem; font-size: .85rem; white-space: nowrap; } h1 { font-size: .95rem; } }
@media (max-height: 420px) { body { padding: .3rem .6rem; gap: .3rem; } header button, #rating button { padding: .1rem .6rem; } #text { height: 2.7rem; } }
"""
