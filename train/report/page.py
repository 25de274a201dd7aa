"""The page itself: parts of HTML made of plain values, all of which is escaped; one file that loads nothing.

`table`, `facts`, `picture`, `folded` → parts → `page(title, parts)`
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from train.world.redact import redacted

STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1c2330,#e6e9ef);--paper:light-dark(#fff,#14171c);--line:light-dark(#dfe3e9,#323844);
--soft:light-dark(#f5f6f8,#1c2027);--dim:light-dark(#5a6472,#a3adba);--bad:light-dark(#9a3412,#fdba74);--good:light-dark(#1f6b40,#86d9a8);
--accent:light-dark(#1f5fbf,#7fb0ff)}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:0 auto;padding:1.2rem 1rem 3rem;overflow-wrap:anywhere;color:var(--ink);background:var(--paper)}
h1{margin:.2rem 0 .1rem;font-size:1.7rem;overflow-wrap:anywhere}h2{margin:2.2rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line);font-size:1.25rem}
h3{margin:1.3rem 0 .4rem;font-size:1rem}p{margin:.5rem 0;max-width:60rem;overflow-wrap:anywhere}.dim{color:var(--dim)}.bad{color:var(--bad)}.good{color:var(--good)}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.8rem 0}a{color:var(--accent)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(13rem,100%),1fr));gap:.7rem;margin:1rem 0;padding:0}
.tile{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem;background:var(--soft);min-width:0}.tile b{display:block;font-size:1.25rem;overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr));gap:1rem}
figure{margin:0;border:1px solid var(--line);border-radius:.5rem;padding:.6rem;min-width:0}figure img{display:block;width:100%;height:auto;background:#fff;border-radius:.3rem}
figcaption{font-size:.9rem;color:var(--dim);padding:0 0 .4rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.95rem}caption{text-align:left;font-weight:600;padding:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.facts th{width:15rem;font-weight:600}.said{table-layout:fixed}
.said td{white-space:pre-wrap}tr.best td{font-weight:600}pre{overflow-x:auto;background:var(--soft);padding:.7rem;border-radius:.4rem;font-size:.85rem}
code{overflow-wrap:anywhere;font-size:.9em}details{margin:.6rem 0}summary{cursor:pointer}
@media(max-width:36rem){.facts th,.facts td,.stack th,.stack td{display:block;width:auto!important;border:0;padding:.1rem 0;text-align:left!important;white-space:pre-wrap}
.facts tr,.stack tr{display:block;border-bottom:1px solid var(--line);padding:.4rem 0}.stack thead,.stack colgroup{display:none}
.stack td[data-label]::before{content:attr(data-label) ": ";font-weight:600}}
@media print{nav{display:none}}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def text(value: object) -> str:
    """Anything as text that means itself, without secrets."""
    return escape(redacted(str(value)))


def facts(rows: Mapping[str, object]) -> str:
    """Name and value, a row each; what is None or empty is left out."""
    shown = "".join(
        f"<tr><th scope=row>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows.items() if value not in (None, "")
    )
    return f"<table class=facts><tbody>{shown}</tbody></table>" if shown else ""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    caption: str = "",
    numbers: Sequence[int] = (),
    kind: str = "stack",
    best: int | None = None,
) -> str:
    """Rows of plain values under a head. numbers: columns that are figures. kind: `stack` becomes a list on a phone. best: a row to mark."""
    if not rows:
        return ""
    style = [" class=number" if i in numbers else "" for i in range(len(head))]
    top = "".join(f"<th scope=col{s}>{text(word)}</th>" for word, s in zip(head, style, strict=True))
    body = ""
    for at, row in enumerate(rows):
        cells = (f'<td{s} data-label="{text(word)}">{text(v)}</td>' for word, s, v in zip(head, style, row, strict=True))
        body += f"<tr{' class=best' if at == best else ''}>{''.join(cells)}</tr>"
    told = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class=wide><table class="{kind}">{told}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def tiles(values: Mapping[str, str]) -> str:
    """The figures one looks for first."""
    return f"<div class=tiles>{''.join(f'<div class=tile><span class=dim>{text(n)}</span><b>{text(v)}</b></div>' for n, v in values.items())}</div>"


def picture(caption: str, file: Path) -> str:
    """An SVG or PNG file within the page."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[file.suffix]
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<figure><figcaption>{text(caption)}</figcaption><img alt="{text(caption)}" src="data:{kind};base64,{data}"></figure>'


def pictures(shown: Sequence[str]) -> str:
    return f"<div class=figures>{''.join(shown)}</div>" if shown else ""


def folded(title: str, inside: str) -> str:
    return f"<details><summary>{text(title)}</summary>{inside}</details>" if inside else ""


def verbatim(value: str) -> str:
    return f"<pre>{text(value)}</pre>"


def paragraph(value: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{text(value)}</p>"


def command(words: str) -> str:
    return f"<p><code>{text(words)}</code></p>"


def page(title: str, said: str, sections: Mapping[str, str]) -> str:
    """The whole file. said: a line under the title. sections: heading → HTML; empty ones are left out."""
    shown = {name: inside for name, inside in sections.items() if inside}
    links = "".join(f'<a href="#{_anchor(name)}">{text(name)}</a>' for name in shown)
    body = "".join(f'<section id="{_anchor(name)}"><h2>{text(name)}</h2>{inside}</section>' for name, inside in shown.items())
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}"><link rel=icon href="data:,"><title>{text(title)}</title><style>{STYLE}</style></head>'
        f"<body><h1>{text(title)}</h1>{paragraph(said, 'dim')}<nav>{links}</nav>{body}</body></html>\n"
    )


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
