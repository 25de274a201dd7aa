"""Markdown and formulas of an answer: what is made of them, and that an answer can do nothing but be read; in a real browser."""

import hashlib
import re

import pytest

from launch.talk import formatted, page

pytest.importorskip("starlette", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

from tests.launch.talk.test_page import SEEN, Scripted, ask, serve  # noqa: F401

HELPFUL = """# Distances

The **parallax** of *Gaia* gives $d = 1/\\varpi$, not `1/p`; it costs $5 and $10. See [the paper](https://arxiv.org/abs/1804.09376).

$$ M_\\odot = \\frac{4\\pi^2 a^3}{G P^2} $$

\\[ x_{a_1} \\approx \\int_0^\\infty e^{-t^2}\\,dt + \\text{a long tail of terms that go on} + \\sum_{i=1}^{n} \\alpha_i \\beta_i \\gamma_i \\]

| star | mass |
|---|---:|
| \\(\\alpha\\) Cen A | 1.08 |

```python
print("$not$ **a** <b>formula</b>")
```

1. one
2. two_with_underscores_in

> quoted; broken $\\frac{1$ stays.
"""

HOSTILE = [
    "<script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "<svg onload=\"document.title='broken'\"><a xlink:href=\"javascript:document.title='broken'\">x</a></svg>",
    "<iframe srcdoc=\"<script>parent.document.title='broken'</script>\"></iframe>",
    "<math><mtext><table><mglyph><style><img src onerror=document.title='broken'></style></mglyph></table></mtext></math>",
    "<form id=ask><input name=attributes><button formaction=javascript:document.title='broken'>x</button></form>",
    "<style>body { display: none }</style><link rel=stylesheet href=https://evil.example/a.css>",
    "[x](javascript:document.title='broken') [y](JaVaScRiPt:alert(1)) [z](data:text/html,<script>1</script>) [w](vbscript:x)",
    "[x](&#106;avascript:document.title='broken') <javascript:alert(1)> [t](https://a.example 'x\" onmouseover=\"document.title=1')",
    "![p](https://evil.example/seen.png) ![\" onerror=\"document.title='broken'](x)",
    "![r][1]\n\n[1]: https://evil.example/seen2.png",
    "$\\href{javascript:document.title='broken'}{x}$ $\\includegraphics{https://evil.example/a.png}$ $\\htmlStyle{display:none}{x}$",
    "$$\\def\\a{\\a\\a}\\a$$ $\\rule{1000000em}{1000000em}$ $\\text{<img src=x onerror=document.title='broken'>}$",
    "$</span><img src=x onerror=document.title='broken'>$ `</code><script>document.title='broken'</script>`",
    "```\"><script>document.title='broken'</script>\nx\n```",
    "> " * 300 + "deep " + "[" * 300 + "*" * 999,
    "<a href=/ id=send name=kept>named</a> <div class=writing>never ending</div>",
]


def test_the_shipped_scripts_are_those_that_were_published():
    page_of = (formatted.FOLDER / "README.md").read_text()
    told = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  ([\w.-]+)$", page_of, re.MULTILINE)}
    assert {name: hashlib.sha256((formatted.FOLDER / name).read_bytes()).hexdigest() for name in formatted.VENDOR} == told
    assert {f"/vendor/{name}" for name in formatted.VENDOR} == set(re.findall(r"/vendor/[^\"]+", page.HTML))
    assert all((formatted.FOLDER / f"LICENSE.{name.rpartition('-')[0]}").is_file() for name in formatted.VENDOR)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_markdown_and_formulas_are_drawn_while_they_come_and_as_written_on_request(browser, serve, tmp_path, width):  # noqa: F811
    browser.width(width)
    browser.open(serve(Scripted([HELPFUL[at : at + 7] for at in range(0, len(HELPFUL), 7)])).url)
    browser.wait("document.querySelectorAll('section').length === 1")
    ask(browser, "How far?", 1)
    count = "(css => document.querySelectorAll('.assistant ' + css).length)"
    seen = {css: browser.js(f"{count}('{css}')") for css in ("h1", "strong", "em", "code", "pre", "td", "ol > li", "blockquote", "math")}
    assert seen == {"h1": 1, "strong": 1, "em": 1, "code": 2, "pre": 1, "td": 2, "ol > li": 2, "blockquote": 1, "math": 4}
    text = browser.js("document.querySelector('.assistant').textContent")
    assert "costs $5 and $10" in text and 'print("$not$ **a** <b>formula</b>")' in text and "broken $\\frac{1$ stays" in text
    assert browser.js("document.querySelector('.assistant a').rel") == "noopener noreferrer nofollow"
    assert browser.js("document.querySelectorAll('math[display=block] mfrac').length") == 1  # MathML, drawn by the browser
    assert browser.js("document.documentElement.scrollWidth <= innerWidth") and browser.js(f"{SEEN}('.mark')")
    browser.screenshot(tmp_path / "end.png")
    browser.js("document.getElementById('view').scrollTop = 0")
    browser.screenshot(tmp_path / "formatted.png")
    browser.click("#plain")
    assert browser.js("document.querySelector('.assistant').textContent") == HELPFUL
    browser.click("#plain")
    assert browser.js(f"{count}('math')") == 4 and browser.console() == []


@pytest.mark.slow
def test_a_hostile_answer_can_do_nothing_but_be_read(browser, serve, tmp_path):  # noqa: F811
    talker = Scripted([])
    browser.width(1280)
    browser.open(serve(talker).url)
    browser.wait("document.querySelectorAll('section').length === 1")
    for turn, talker.pieces in enumerate([[text] for text in HOSTILE], 1):
        ask(browser, "Well?", turn)
    allowed = "p br hr em strong del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 a table thead tbody tr th td span div".split()
    nodes = browser.js(
        """[...document.querySelectorAll('.assistant *')].filter(n => !n.closest('math')).map(n =>
        [n.localName, n.getAttributeNames().join(' '), n.getAttribute('href') || ''])"""
    )
    assert {name for name, *_ in nodes} <= set(allowed) and len(nodes) > 30
    assert {attribute for _, names, _ in nodes for attribute in names.split()} <= {"href", "title", "class", "target", "rel", "start"}
    assert all(re.match("https?://|$", href) for *_, href in nodes), [href for *_, href in nodes]
    inner = browser.js("[...document.querySelectorAll('.assistant math *')].flatMap(n => [n.localName, ...n.getAttributeNames()])")
    assert not {name for name in inner if name in ("script", "img", "a", "href", "src", "mglyph") or name.startswith("on")}
    for link in range(browser.js("document.querySelectorAll('.assistant a').length")):
        browser.js(f"document.querySelectorAll('.assistant a')[{link}].dispatchEvent(new MouseEvent('mouseover', {{bubbles: true}}))")
    assert browser.js("document.title") == "Compare answers"
    loaded = browser.js("performance.getEntriesByType('resource').map(entry => new URL(entry.name).host).filter(h => h !== location.host)")
    assert loaded == [] and browser.js("document.getElementById('send').form.id") == "ask"
    assert browser.js("getComputedStyle(document.body).display") == "flex" and browser.js(f"{SEEN}('#send')")
    assert browser.js("document.getElementById('view').scrollWidth <= document.getElementById('view').clientWidth")
    assert "<script>" in browser.js("document.querySelector('.assistant').textContent")  # it is read, not dropped
    browser.screenshot(tmp_path / "hostile.png")
