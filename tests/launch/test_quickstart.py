"""The quickstart abstracts are large enough, well formed, and held out honestly."""

import json
import re

from tests.made.where import ROOT

ABSTRACTS = ROOT / "launch" / "recipes" / "quickstart_abstracts.jsonl"


def records() -> list[dict]:
    return [json.loads(line) for line in ABSTRACTS.read_text(encoding="utf-8").splitlines()]


def texts(split: str) -> list[str]:
    return [record["text"] for record in records() if record.get("split") == split]


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_header_comes_first_and_carries_no_text() -> None:
    header = records()[0]
    assert header["id"] == "header"
    assert header["license"] == "Apache-2.0"
    assert "text" not in header


def test_every_line_after_the_header_is_a_whole_abstract_record() -> None:
    for record in records()[1:]:
        assert set(record) == {"id", "split", "topic", "title", "text"}
        assert record["split"] in ("train", "heldout")
        assert record["id"].startswith(record["split"] + "-")
        assert all(record.values())


def test_both_splits_are_large_enough() -> None:
    assert len(texts("train")) >= 120
    assert len(texts("heldout")) >= 30


def test_every_text_is_as_long_as_an_abstract() -> None:
    lengths = {record["id"]: len(record["text"].split()) for record in records()[1:]}
    assert {name: n for name, n in lengths.items() if not 120 <= n <= 250} == {}


def test_ids_are_unique() -> None:
    ids = [record["id"] for record in records()]
    assert len(ids) == len(set(ids))


def test_titles_are_unique() -> None:
    titles = [record["title"] for record in records()[1:]]
    assert len(titles) == len(set(titles))


def test_mathematics_is_closed() -> None:
    assert [record["id"] for record in records()[1:] if record["text"].count("$") % 2] == []


def test_no_twelve_words_in_a_row_are_shared_between_training_and_heldout_texts() -> None:
    train = set().union(*(runs(text, 12) for text in texts("train")))
    heldout = set().union(*(runs(text, 12) for text in texts("heldout")))
    assert train and heldout
    assert train & heldout == set()
