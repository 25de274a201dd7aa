"""The reader against real papers: a hand-made list of labels, the abstracts in the sources, and a look for left-over LaTeX."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from data_tools.latex.paper import Paper, PaperError, read_paper
from tests.made.where import SHARED

LABELS = json.loads((Path(__file__).parent / "labels.json").read_text())["papers"]
pytestmark = pytest.mark.skipif(not (SHARED / "latex").is_dir(), reason="needs the real papers beside the checkout, ../shared/data/latex")
MARGIN = 60  # words within which a label's first or last words must be found
MATH = re.compile(r"(?s)\$\$.*?\$\$|\$[^$]*\$")
ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\b[\w.-]+\.(?:org|com|io|edu|gov)/\S+|~ ?/\S+")
# a label's key, a float's place, a command, a brace that holds no list of numbers, a tie, a comment sign that is no percentage, a column mark between lower-case words
RESIDUE = re.compile(
    r"\b(?:fig|sec|tab|eqn?|app):\w|\[[htbp!]{1,5}\]|\b(?:textwidth|linewidth|htbp)\b|\\|\{(?![\d, ]+\})|(?<![\d ])\}|~|(?<![\d\s\]FXN])%|[a-z]&|&[a-z]|\$|``|''|[\ue000-\ue003]"
)


@pytest.fixture(scope="module")
def papers() -> dict[str, Paper | PaperError]:
    read: dict[str, Paper | PaperError] = {}
    for label in LABELS:
        try:
            read[label["file"]] = read_paper(SHARED / "latex" / label["file"])
        except PaperError as error:
            read[label["file"]] = error
    return read


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", MATH.sub(" ", text).lower())


def holds(text: list[str], anchor: str) -> bool:
    return f" {' '.join(words(anchor))} " in f" {' '.join(text)} "


def agrees(paper: Paper | PaperError, part: str, label: dict) -> bool:
    """Whether a part is the labelled section from its first words to its last, with nothing of a neighbour."""
    text = getattr(paper, part, None)
    other = getattr(paper, "conclusion" if part == "introduction" else "introduction", None) or ""
    wanted = label[part]
    if not text:
        return False
    title = next((s["title"] for s in paper.sections if s["kind"] == part), None)
    found = words(text)
    neighbours = {label.get("next", "").lower(), "acknowledgements", "acknowledgments", "references", "appendix"} - {""}
    return (
        title is not None
        and " ".join(words(title)) == " ".join(words(wanted["title"]))
        and (not wanted["head"] or holds(found[:MARGIN], wanted["head"]))
        and (not wanted["tail"] or holds(found[-MARGIN:], wanted["tail"]))
        and not neighbours & {line.lower() for line in text.split("\n")}
        and not (wanted["head"] and holds(words(other), wanted["head"]))
    )


@pytest.mark.parametrize(("part", "bar"), [("introduction", 0.97), ("conclusion", 0.95)])
def test_parts_are_those_a_reader_marked(papers: dict, part: str, bar: float) -> None:
    having = [label for label in LABELS if label[part]]
    missed = [label["file"] for label in having if not agrees(papers[label["file"]], part, label)]
    invented = [label["file"] for label in LABELS if not label[part] and getattr(papers[label["file"]], part, None)]
    share = 1 - len(missed) / len(having)
    print(
        f"\n{part}: {len(having) - len(missed)} of {len(having)} right ({share:.1%}), {len(invented)} of {len(LABELS) - len(having)} invented",
        *missed,
        *invented,
    )
    assert len(LABELS) >= 60 and len(having) >= 50
    assert share >= bar
    assert len(invented) <= 1


def test_every_real_paper_is_read(papers: dict) -> None:
    refused = {name: str(paper) for name, paper in papers.items() if isinstance(paper, PaperError)}
    print(f"\n{len(papers) - len(refused)} of {len(papers)} papers read")
    assert not refused and len(papers) == 82


def test_prose_holds_no_latex_outside_mathematics(papers: dict) -> None:
    sentences = [
        sentence for paper in papers.values() for sentence in re.split(r"(?<=[.!?])\s+|\n+", ADDRESS.sub("", MATH.sub("0", paper.text)))
    ]
    bad = [sentence for sentence in sentences if RESIDUE.search(sentence)]
    share = 1 - len(bad) / len(sentences)
    print(f"\n{len(sentences)} sentences, {share:.2%} without left-over LaTeX", *(b[:120] for b in bad[:12]), sep="\n  ")
    assert len(sentences) > 10_000
    assert share >= 0.99


def abstract_in_source(main: Path) -> str | None:
    """The abstract by another way: its environment cut out by hand, comments and citations deleted, pylatexenc for the rest."""
    from pylatexenc.latex2text import LatexNodes2Text

    def plain(path: Path) -> str:
        return re.sub(r"(?<!\\)%.*", "", path.read_bytes().decode("utf-8", errors="replace"))

    source = plain(main)
    for name in set(re.findall(r"\\(?:include|input)\{([\w/.-]+)\}", source)):
        path = main.parent / (name if name.endswith(".tex") else name + ".tex")
        if path.is_file():
            source = re.sub(r"\\(?:include|input)\{" + re.escape(name) + r"\}", lambda m, path=path: plain(path), source)
    found = re.search(
        r"(?s)\\begin\{abstract\}(.*?)\\end\{abstract\}|\\abstract\s*((?:\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}\s*)+)", source
    )
    if found is None:
        return None
    inside = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
    text = re.sub(r"\\DIFdelbegin.*?\\DIFdelend", " ", found[1] or found[2], flags=re.S)
    text = re.sub(r"\\(?:deleted|variable)" + inside, " ", re.sub(r"\\replaced" + inside + inside, r"\2", text))
    if r"\racomment}[1]{{\color" in source:  # one author's remarks to herself
        text = re.sub(r"\\racomment" + inside, " ", text)
    for _ in range(3):
        for name, body in re.findall(
            r"\\(?:re)?newcommand\*?\{?(\\[a-zA-Z]+)\}?(?:\[[01]\])?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}", source
        ) + re.findall(r"\\def\s*(\\[a-zA-Z]+)\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}", source):
            text = re.sub(re.escape(name) + r"(?![a-zA-Z])", lambda m, body=body: body.replace("#1", ""), text)
    text = re.sub(
        r"\\(?:cite\w*|footnote|label|vspace|href)\*?(?:\[[^\]]*\])*\{(?:[^{}]|\{[^{}]*\})*\}|\\(?:xspace|noindent|looseness=-1)|\\DIF\w+",
        " ",
        text,
    )
    text = text.replace(r"\texttt", "")  # pylatexenc leaves out what it holds
    return LatexNodes2Text(math_mode="verbatim").latex_to_text(re.sub(r"\$[^$]*\$|\\ensuremath\{(?:[^{}]|\{[^{}]*\})*\}", " ", text))


def overlap(found: str, reference: str) -> float:
    """Share of the found words that the reference has, by F1 of their counts."""
    a, b = (Counter(w for w in words(t) if w.isalpha() and len(w) > 1) for t in (found, reference))
    return 2 * sum((a & b).values()) / max(1, sum(a.values()) + sum(b.values()))


def test_abstracts_are_the_sources_own(papers: dict) -> None:
    scores = {}
    for name, paper in papers.items():
        reference = abstract_in_source(SHARED / "latex" / name)
        if reference and len(words(reference)) >= 5:
            scores[name] = overlap(paper.abstract or "", reference)
    worst = sorted(scores, key=scores.get)[:6]
    print(
        f"\n{len(scores)} abstracts, mean overlap {sum(scores.values()) / len(scores):.4f}",
        *(f"{scores[n]:.3f} {n}" for n in worst),
        sep="\n  ",
    )
    assert len(scores) >= 70
    assert min(scores.values()) >= 0.98


def test_abstracts_agree_with_published_metadata(papers: dict) -> None:
    titles = {" ".join(words(p.title)): p for p in papers.values() if p.abstract and len(p.title) > 20}
    scores = {}
    for part in ("astro_train", "astro_validation", "astro_crosslisted"):
        with gzip.open(SHARED / "abstracts" / f"{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                paper = titles.get(" ".join(words(record["title"])))
                if paper:
                    scores[paper.title] = overlap(paper.abstract, record["abstract"])
    print(f"\n{len(scores)} papers found in the metadata by title:", *(f"{s:.3f} {t}" for t, s in scores.items()), sep="\n  ")
    if not scores:
        pytest.skip("no paper of the folder is in the metadata")
    # the rest are drafts, whose authors changed the abstract before it was published
    assert sum(score >= 0.98 for score in scores.values()) >= 3
