"""arXiv metadata and LaTeX sources → documents, through the command."""

import gzip
import json
import re
from pathlib import Path

import pytest

from data_tools.arxiv.make import is_heldout
from tests.made.papers import documents, make, paper, record, sentences, tar, tree, write_lines


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over metadata in two files, a bulk tar, loose sources and a folder, with everything that can go wrong in them."""
    place = tmp_path_factory.mktemp("arxiv")
    rows = [record(number) for number in range(60)]
    rows += [
        record(100, categories="cs.LG"),
        record(101, comments="withdrawn by the author"),
        record(102, abstract="Too short."),
        "not JSON {",
    ]
    rows += [record(4, versions=[{"version": "v2"}], abstract="The second version. " + sentences("v2", 4))]
    rows += [record(110, abstract=record(7)["abstract"] + " Also this.", title=record(7)["title"])]
    rows += [record(111, abstract=sentences("exam", 3)), record(112, id="hep-ph/9901001", categories="astro-ph")]
    write_lines(place / "a.jsonl", rows)
    write_lines(
        place / "b.jsonl.gz", [record(3), record(113, abstract="Dans cette note les résultats sont présentés pour des équations. " * 4)]
    )
    (place / "exam.json").write_text(json.dumps([{"question": sentences("exam", 3).split(". ")[1], "answer": "B"}]))
    bulk = {f"0704/{record(n)['id']}.gz": gzip.compress(paper(n)) for n in (0, 3, 6)}
    bulk |= {"9901/hep-ph9901001.gz": gzip.compress(tar({"ms.tex": paper("old")})), "0704/0704.9999.gz": gzip.compress(paper("nobody"))}
    bulk |= {f"0704/{record(9)['id']}.gz": gzip.compress(tar({"../../up.tex": paper(9)})), f"0704/{record(12)['id']}.pdf": b"%PDF-1.4"}
    (place / "arXiv_src_0704_001.tar").write_bytes(tar(bulk))
    (place / "loose" / record(2)["id"] / "sections").mkdir(parents=True)
    (place / "loose" / record(2)["id"] / "ms.tex").write_bytes(paper(2).replace(b"\\section{Data}", b"\\input{sections/data}"))
    (place / "loose" / record(2)["id"] / "sections" / "data.tex").write_bytes(b"\\section{Data} Data from another file.")
    (place / "loose" / f"{record(5)['id']}v1.tar.gz").write_bytes(gzip.compress(tar({"ms.tex": paper("5 v1")})))
    (place / "loose" / f"{record(5)['id']}v2.tex").write_bytes(paper("5 v2"))
    assert make("--metadata", place / "a.jsonl", place / "b.jsonl.gz", "--latex", place / "arXiv_src_0704_001.tar", place / "loose", "--out",
                place / "out", "--heldout", "0.3", "--decontaminate", place / "exam.json", "--bad-rows", "0.02") == 0  # fmt: skip
    return place / "out"


def by_id(out: Path) -> dict[str, dict]:
    rows = documents(out) + documents(out, "heldout")
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def test_every_record_is_kept_dropped_with_a_reason_or_was_not_asked_for(made: Path) -> None:
    counts = json.loads((made / "counts.json").read_bytes())
    assert counts["read"] == 70 and counts["not_chosen"] == {"category": 1}
    assert counts["dropped"] == {
        "bad_record": 1, "contaminated": 1, "duplicate_id": 2, "near_duplicate": 1, "not_english": 1, "too_short": 1, "withdrawn": 1,
    }  # fmt: skip
    assert counts["kept"] == len(by_id(made)) == 61
    assert {Path(name).name: entry["read"] for name, entry in counts["by_input"].items()} == {"a.jsonl": 68, "b.jsonl.gz": 2}
    assert [(sorted(Path(name).name for name in pair.split(" | ")), found) for pair, found in counts["duplicates_between"].items()] == [
        (["a.jsonl", "a.jsonl"], {"near_duplicate": 1, "same_id": 1}),
        (["a.jsonl", "b.jsonl.gz"], {"same_id": 1}),
    ]


def test_what_was_dropped_can_be_read(made: Path) -> None:
    dropped = {row["reason"]: row for row in documents(made, "dropped")}
    assert dropped["bad_record"]["text"] == "not JSON {" and dropped["bad_record"]["detail"] == "not JSON"
    assert "Dans cette note" in dropped["not_english"]["text"]
    run = " ".join(re.findall(r"\w+", sentences("exam", 3).split(". ")[1].lower())[:13])
    assert dropped["contaminated"]["detail"].startswith(f"shares {run!r} with ") and dropped["contaminated"]["detail"].endswith("exam.json")
    assert dropped["near_duplicate"]["detail"].endswith(f"like {record(110)['id']}")
    assert dropped["source_path_traversal"]["id"] == record(9)["id"] and dropped["source_pdf"]["id"] == record(12)["id"]


def test_the_newest_version_of_a_paper_stays(made: Path) -> None:
    assert "The second version." in by_id(made)[record(4)["id"]]["text"]


def test_parts_come_from_where_meta_says(made: Path) -> None:
    rows = by_id(made)
    row = rows[record(3)["id"]]
    assert row["meta"]["parts"] == {"title": "metadata", "abstract": "metadata", "introduction": "latex", "conclusion": "latex"}
    title, abstract, heading, introduction, second, conclusion = row["text"].split("\n\n")
    assert (title, heading, second) == ("The star of NGC 3", "Introduction", "Conclusion")
    assert [abstract, introduction, conclusion] == [sentences(3, 4), sentences((3, "i"), 5), sentences((3, "c"), 4)]
    assert row["meta"] | {"parts": 0} == {
        "source": "arxiv", "title": "The star of NGC 3", "categories": ["astro-ph.GA", "gr-qc"], "date": "2007-04-02", "updated": "2008-01-01",
        "license": "unknown", "version": 1, "latex": "0704.0003.gz", "parts": 0,
    }  # fmt: skip
    assert rows[record(1)["id"]]["meta"]["parts"] == {"title": "metadata", "abstract": "metadata"}


def test_sources_are_matched_by_id_in_both_styles_and_in_the_newest_version(made: Path) -> None:
    rows = by_id(made)
    assert sentences(("old", "i"), 5) in rows["hep-ph/9901001"]["text"]
    assert sentences((2, "c"), 4) in rows[record(2)["id"]]["text"]
    assert sentences(("5 v2", "i"), 5) in rows[record(5)["id"]]["text"]
    counts = json.loads((made / "counts.json").read_bytes())["latex"]
    assert counts == {"sources": 10, "read": 7, "not_chosen": 1, "refused path_traversal": 1, "refused pdf": 1}


def test_the_split_is_a_function_of_the_id(made: Path) -> None:
    train, heldout = documents(made), documents(made, "heldout")
    assert not [row["id"] for row in train if is_heldout(row["id"], 0.3)] and all(is_heldout(row["id"], 0.3) for row in heldout)
    assert 8 <= len(heldout) <= 28
    shares = [sum(is_heldout(f"2301.{n:05d}", fraction) for n in range(20_000)) / 20_000 for fraction in (0.0, 0.02, 0.5, 1.0)]
    assert shares == pytest.approx([0, 0.02, 0.5, 1], abs=0.01)
    assert all(is_heldout(f"2301.{n:05d}", 0.1) for n in range(2000) if is_heldout(f"2301.{n:05d}", 0.02))


def test_provenance_names_inputs_and_files_by_hash(made: Path) -> None:
    import hashlib

    provenance = json.loads((made / "provenance.json").read_bytes())
    assert len(provenance["inputs"]) == 7 and len(provenance["files"]) == 6
    for row in provenance["inputs"]:
        if "files" not in row:
            assert hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest() == row["sha256"]
    for row in provenance["files"]:
        assert hashlib.sha256((made / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    assert not (made / ".work").exists()


@pytest.mark.slow
def test_workers_and_the_cut_of_the_input_into_files_do_not_change_a_byte(tmp_path: Path) -> None:
    rows = [record(number) for number in range(90)] + [
        record(5, abstract=sentences("other", 5)),
        record(200, abstract=record(8)["abstract"]),
    ]
    cuts = {"one": [rows], "three": [rows[50:], rows[:20], rows[20:50]], "backwards": [rows[::-1]]}
    sources = tmp_path / "sources"
    sources.mkdir()
    for number in range(0, 90, 9):
        (sources / f"{record(number)['id']}.gz").write_bytes(gzip.compress(paper(number)))
    found = []
    for name, workers in (("one", 1), ("one", 2), ("one", 4), ("three", 2), ("backwards", 1)):
        paths = [write_lines(tmp_path / f"{name}{k}.jsonl{['', '.gz'][k % 2]}", part) for k, part in enumerate(cuts[name])]
        out = tmp_path / f"{name}-{workers}"
        assert make("--metadata", *paths, "--latex", sources, "--out", out, "--heldout", "0.2", workers=workers) == 0
        found.append({file: data for file, data in tree(out).items() if file.endswith(".gz")})
    assert len(found[0]) >= 4 and all(files == found[0] for files in found)


def test_large_files_are_read_in_parts_without_losing_or_repeating_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_tools.arxiv import inputs as sources

    path = write_lines(tmp_path / "a.jsonl", [record(number) for number in range(40)])
    lines = path.read_bytes().splitlines(keepends=True)
    for size in (1, 700, len(lines[0]), len(lines[0]) + 1, 5000):
        monkeypatch.setattr(sources, "PART_BYTES", size)
        parts = sources.metadata_parts([str(path)])
        assert len(parts) > 1 and [line for part in parts for line in sources.lines_of(part)] == lines


def test_without_metadata_every_source_is_a_document(tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    (folder / "thesis" / "chapters").mkdir(parents=True)
    (folder / "thesis" / "chapters" / "main.tex").write_bytes(paper("thesis"))
    (folder / "draft.tex").write_bytes(paper("draft"))
    (folder / "broken.tar.gz").write_bytes(gzip.compress(tar({"ms.tex": paper(1)}))[:-20])
    assert make("--latex", folder, "--parts", "full", "--out", tmp_path / "out", "--heldout", "0") == 0
    rows = by_id(tmp_path / "out")
    assert sorted(rows) == ["draft", "thesis"] and rows["draft"]["meta"]["parts"] == {
        "title": "latex",
        "abstract": "latex",
        "body": "latex",
    }
    assert sentences(("draft", "d"), 5) in rows["draft"]["text"]
    counts = json.loads((tmp_path / "out/counts.json").read_bytes())
    assert counts["latex"]["refused truncated"] == 1 and counts["dropped"] == {"source_truncated": 1}
    assert [(row["id"], row["reason"]) for row in documents(tmp_path / "out", "dropped")] == [("broken", "source_truncated")]


def test_other_documents_pass_the_same_filters_and_duplicates(tmp_path: Path) -> None:
    rows = [
        {"id": "book-1", "text": sentences("book", 5), "source": "books"},
        {"id": "copy", "text": record(3)["title"] + record(3)["abstract"]},
    ]
    rows += [{"id": "x", "text": "no"}, {"id": "y"}, {"id": "z", "text": "no", "meta": 3}, "[" * 100_000, "3"]
    metadata = write_lines(tmp_path / "m.jsonl", [record(n) for n in range(5)])
    others = write_lines(tmp_path / "o.jsonl", rows)
    assert make("--metadata", metadata, "--documents", others, "--out", tmp_path / "out", "--bad-rows", "0.5") == 0
    kept = by_id(tmp_path / "out")
    assert len(kept) == 6 and kept["book-1"]["meta"] == {"source": "books"}
    assert sorted(row["detail"] for row in documents(tmp_path / "out", "dropped") if row["reason"] == "bad_record") == [
        "meta is no object", "no id or no text", "no id or no text", "not JSON",
    ]  # fmt: skip
    assert {row["id"]: row["reason"] for row in documents(tmp_path / "out", "dropped") if row["reason"] != "bad_record"} == {
        "copy": "exact_duplicate", "x": "too_short",
    }  # fmt: skip


def test_the_same_command_again_does_nothing_and_another_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    metadata, out = write_lines(tmp_path / "m.jsonl", [record(n) for n in range(5)]), tmp_path / "out"
    assert make("--metadata", metadata, "--out", out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.gz")}
    assert make("--metadata", metadata, "--out", out) == 0
    assert "made by this very command before; nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.gz")}
    (tmp_path / "theirs" / "documents").mkdir(parents=True)
    assert make("--metadata", metadata, "--out", tmp_path / "theirs") == 1
    assert "theirs/documents exists and was not made here; choose another --out" in capsys.readouterr().err
    assert make("--metadata", metadata, "--out", out, "--heldout", "0.5") == 1
    assert "holds documents of another command or other inputs (heldout); choose another --out or delete it" in capsys.readouterr().err
    metadata.write_bytes(metadata.read_bytes().replace(b"percent", b"PERCENT"))
    assert make("--metadata", metadata, "--out", out) == 1
    assert f"was made of another {metadata}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to read: give --metadata, --latex or --documents"),
        (["--metadata", "{m}", "--parts", "introduction"], "introduction comes from LaTeX sources; add --latex PATH"),
        (["--metadata", "{m}", "--parts", "intro"], "no part is called 'intro'; there are title, abstract, introduction, conclusion, full"),
        (["--metadata", "{m}", "--latex", "{m}", "--parts", "full,abstract"], "full holds the other parts already; write --parts full"),
        (["--metadata", "{m}", "--since", "April"], "--since April: write YYYY, YYYY-MM or YYYY-MM-DD"),
        (["--metadata", "{m}", "--heldout", "2"], "--heldout 2.0: must be from 0.0 to 1.0"),
        (["--metadata", "{m}", "--filters", "size"], "no filter is called 'size'"),
        (["--metadata", "{m}.not"], "no such file, or a folder without .json or .jsonl files"),
        (["--metadata", "{m}", "--latex", "{m}.not"], "no such file or folder"),
        (["--metadata", "{cut}"], "the copy was cut short or damaged, fetch it again"),
        (["--metadata", "{m}", "--decontaminate", "{short}"], "no text of 13 words or more; choose a smaller --ngram"),
    ],
)
def test_a_user_s_mistake_is_one_message(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    metadata = write_lines(tmp_path / "m.jsonl", [record(1)])
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 100_000 + bytes(range(256)) * 50)[:-30])
    (tmp_path / "short.txt").write_text("What is a quasar?\n")
    names = {"m": metadata, "cut": tmp_path / "cut.jsonl.gz", "short": tmp_path / "short.txt"}
    assert make(*[word.format(**names) for word in words], "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out" / "provenance.json").exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_the_work_folder_may_be_on_another_disk(tmp_path: Path) -> None:
    import tempfile

    metadata = write_lines(tmp_path / "m.jsonl", [record(n) for n in range(5)])
    with tempfile.TemporaryDirectory(dir="/dev/shm") as work:
        (Path(work) / "mine.txt").write_text("not of this run")
        assert make("--metadata", metadata, "--out", tmp_path / "far", "--work", work) == 0
        assert [path.name for path in Path(work).iterdir()] == ["mine.txt"]
    assert make("--metadata", metadata, "--out", tmp_path / "near") == 0
    assert tree(tmp_path / "far") == tree(tmp_path / "near") and not list((tmp_path / "far").glob(".*"))


def test_documents_can_be_delivered_to_a_remote_folder(tmp_path: Path) -> None:
    import fsspec

    metadata = write_lines(tmp_path / "m.jsonl", [record(n) for n in range(5)])
    assert make("--metadata", f"file://{metadata}", "--out", "memory://corpus/astro") == 1
    assert make("--metadata", f"file://{metadata}", "--out", "memory://corpus/astro", "--work", tmp_path / "work") == 0
    fs = fsspec.filesystem("memory")
    provenance = json.loads(fs.cat_file("/corpus/astro/provenance.json"))
    assert provenance["files"] and all(fs.info(f"/corpus/astro/{row['file']}")["size"] == row["bytes"] for row in provenance["files"])
