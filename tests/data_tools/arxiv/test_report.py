"""The report: one page that needs nothing else and says what the counts say."""

import html.parser
import json
import re
from pathlib import Path

import pytest

from data_tools import prepare
from tests.made.papers import documents, make, record, write_lines


class Tags(html.parser.HTMLParser):
    """Open tags that were never closed, and everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.links += [str(value) for name, value in attributes if name in ("src", "href", "xlink:href") and not str(value).startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    rows = [record(number, versions=[{"version": "v1", "created": f"Mon, 2 Apr {2000 + number % 9} 19:18:42 GMT"}]) for number in range(50)]
    rows += [
        record(60, comments="withdrawn"),
        record(61, categories="cs.LG"),
        record(62, abstract="<script>alert(1)</script> & so on, too short"),
    ]
    rows += [record(3), "broken {"]
    assert make("--metadata", write_lines(place / "m.jsonl", rows), "--out", place / "out", "--heldout", "0.1", "--bad-rows", "0.05") == 0
    assert prepare.main(["report", str(place / "out")]) == 0
    return place / "out"


def test_the_page_is_whole_and_fetches_nothing(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == [] and tags.links == []
    assert page.count("<svg") == 4 and "@import" not in page and "url(http" not in page


def test_what_stands_in_papers_is_shown_and_never_run(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on" in page


def test_the_page_says_what_the_counts_say(folder: Path) -> None:
    page, counts = (folder / "report.html").read_text(), json.loads((folder / "counts.json").read_bytes())
    found = {name: int(number.replace(",", "")) for number, name in re.findall(r"<div><b>([\d,]+)</b><span>([a-z ]+)</span></div>", page)}
    words = sum(len(row["text"].split()) for part in ("documents", "heldout") for row in documents(folder, part))
    assert found == {
        "read": 55, "asked for": 54, "kept": 50, "train": len(documents(folder)), "held out": len(documents(folder, "heldout")), "dropped": 4, "words": words,
    }  # fmt: skip
    for reason, number in counts["dropped"].items():
        assert f"<h3>{reason}: {number}</h3>" in page


def test_samples_are_documents_of_the_folder(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    samples = page.split("<h2>Samples</h2>")[1].split("<h2>")[0]
    shown = re.findall(r"<article><header>([^ ]+) ·", samples)
    assert len(shown) == 6 and set(shown) <= {row["id"] for row in documents(folder)}


def test_the_same_folder_makes_the_same_page(folder: Path, tmp_path: Path) -> None:
    assert prepare.main(["report", str(folder), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == (folder / "report.html").read_bytes()


def test_an_unfinished_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert prepare.main(["report", str(tmp_path)]) == 1
    assert "no provenance.json; give a folder that `prepare arxiv` has finished" in capsys.readouterr().err
