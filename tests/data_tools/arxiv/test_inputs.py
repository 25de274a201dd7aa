"""Metadata and sources as people have them, through the command: what is read, what is left out and said, what is refused."""

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_tools.arxiv.inputs import latex_shares, name_of
from tests.made.papers import documents, make, paper, record, sentences, tar, write_lines


def zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zst,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
ROWS = [record(k) for k in range(1, 6)]
IDS = sorted(row["id"] for row in ROWS)
SHAPES: dict[str, Callable[[], bytes]] = {
    "lines": lambda: "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "array": lambda: json.dumps(ROWS).encode(),
    "array over lines": lambda: json.dumps(ROWS, indent=2).encode(),
    "array, a record a line": lambda: ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n").encode(),
    "by id": lambda: json.dumps({row["id"]: {key: row[key] for key in row if key != "id"} for row in ROWS}).encode(),
    "wrapped": lambda: json.dumps({"count": 5, "papers": ROWS}, indent=1).encode(),
    "columns": lambda: json.dumps({key: {str(k): row[key] for k, row in enumerate(ROWS)} for key in ROWS[0]}).encode(),
    "BOM": lambda: b"\xef\xbb\xbf" + "".join(json.dumps(row) + "\r\n" for row in ROWS).encode(),
    "BOM, array": lambda: b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode(),
}


def ids(out: Path) -> list[str]:
    return sorted(row["id"] for row in documents(out) + documents(out, "heldout"))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_metadata_are_read_in_every_shape(tmp_path: Path, shape: str) -> None:
    (tmp_path / "m.json").write_bytes(SHAPES[shape]())
    assert make("--metadata", tmp_path / "m.json", "--out", tmp_path / "out") == 0
    assert ids(tmp_path / "out") == IDS


@pytest.mark.slow
@pytest.mark.parametrize("packed", PACKERS)
def test_metadata_are_read_in_every_compression_and_from_folders_of_parts(tmp_path: Path, packed: str) -> None:
    folder = tmp_path / "m[1]::a b"
    folder.mkdir()
    (folder / f"part-0.jsonl{packed}").write_bytes(PACKERS[packed](SHAPES["lines"]()))
    (folder / f"part-1.json{packed}").write_bytes(PACKERS[packed](json.dumps([record(7)]).encode()))
    (folder / f"part-2.jsonl{packed}").write_bytes(PACKERS[packed](b""))
    for name in ("part-3.json", "_SUCCESS", ".part-0.jsonl.crc"):
        (folder / name).touch()
    (folder / ".hidden.jsonl").write_text("no data")
    for number, given in enumerate((folder, folder / "part-*")):
        assert make("--metadata", given, "--out", tmp_path / f"out{number}") == 0
        assert ids(tmp_path / f"out{number}") == sorted([*IDS, record(7)["id"]])


WRITTEN = {
    "0704.0003": ["https://arxiv.org/abs/0704.0003v2", "arXiv:0704.0003", "0704.0003 [astro-ph.GA]", "10.48550/arXiv.0704.0003", 704.0003],
    "0704.0030": ["pdf/0704.0030.pdf", "oai:arXiv.org:0704.0030", "704.003"],
    "1501.00010": ["1501.0001", "ARXIV:1501.00010"],
    "astro-ph/9301003": ["abs/astro-ph/9301003", "astro-ph.CO/9301003", "ASTRO-PH_9301003", "https://arxiv.org/pdf/astro-ph/9301003v1"],
}


def test_an_id_in_any_spelling_is_the_bare_id_and_finds_its_source(tmp_path: Path) -> None:
    forms = [form for several in WRITTEN.values() for form in several]
    metadata = write_lines(tmp_path / "m.jsonl", [record(k, id=form, categories="astro-ph") for k, form in enumerate(forms)])
    (tmp_path / "src").mkdir()
    for bare in WRITTEN:
        (tmp_path / "src" / f"{bare.replace('/', '_')}.tex").write_bytes(paper(bare))
    assert make("--metadata", metadata, "--latex", tmp_path / "src", "--out", tmp_path / "out") == 0
    rows = {row["id"]: row for row in documents(tmp_path / "out") + documents(tmp_path / "out", "heldout")}
    assert sorted(rows) == sorted(WRITTEN) and all(sentences((bare, "i"), 5) in rows[bare]["text"] for bare in WRITTEN)
    counts = json.loads((tmp_path / "out" / "counts.json").read_bytes())
    assert counts["dropped"] == {"duplicate_id": len(forms) - len(WRITTEN)}


@pytest.mark.parametrize("text", ['{"id": 704.0030, ', '{"id": 7.04003e2, '])
@pytest.mark.parametrize("array", [False, True])
def test_a_number_is_read_as_it_is_written(tmp_path: Path, text: str, array: bool) -> None:
    line = text + json.dumps(record(1))[1:].partition(", ")[2]
    (tmp_path / "m.json").write_text(f"[{line}]" if array else line + "\n")
    assert make("--metadata", tmp_path / "m.json", "--out", tmp_path / "out") == 0
    assert ids(tmp_path / "out") == ["0704.0030"]


def test_more_bad_rows_than_allowed_stop_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [record(k) for k in range(1, 10)]
    metadata = write_lines(tmp_path / "m.jsonl", [*rows, record(10, id="NGC 1275")])
    assert make("--metadata", metadata, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert (
        f"{metadata}: id 'NGC 1275' is no arXiv id; 1 of 10 records cannot be used; mend them, or allow more with --bad-rows SHARE" in said
    )
    assert not (tmp_path / "out").exists()
    assert make("--metadata", metadata, "--out", tmp_path / "out", "--bad-rows", "0.1") == 0
    assert "dropped: 1 of 10 records (bad_record 1)" in capsys.readouterr().out
    lost = write_lines(tmp_path / "lost.jsonl", [record(11, id=9301003)])
    assert make("--metadata", metadata, lost, "--out", tmp_path / "other", "--bad-rows", "0.5") == 1
    assert f"{lost}: id '9301003' is no arXiv id: of which archive? write astro-ph/9301003; 1 of its 1 records" in capsys.readouterr().err


LAYOUTS = {
    "arXiv's own download name": {"arXiv-0704.0003v1.tar.gz": "0704.0003", "notes.txt": None},
    "an archive's folder beside other files": {"README": None, "a.zip": None, "src/astro-ph/9301003.tar.gz": "astro-ph/9301003"},
    "an archive's folder beside sources": {"0704.0003.gz": "0704.0003", "astro-ph/9301003.tar.gz": "astro-ph/9301003"},
    "an archive's folder with months": {"astro-ph/9301/9301003.gz": "astro-ph/9301003", "astro-ph/0001/astro-ph0001002v2.gz": "astro-ph/0001002"},
    "as the bucket has it": {"arxiv/arxiv/pdf/0704/0704.0003v1.gz": "0704.0003", "arxiv/astro-ph/pdf/9301/9301003v1.gz": "astro-ph/9301003"},
    "a folder a paper of the old style": {"astro-ph/9301003/ms.tex": "astro-ph/9301003", "astro-ph/9301004/ms.tex": "astro-ph/9301004"},
    "several archives": {"hep-th/9901001.tar.gz": "hep-th/9901001", "astro-ph/9301003.tex": "astro-ph/9301003", "gr-qc/0001001v3.tar": "gr-qc/0001001"},
    "underscores": {"astro-ph_9301003v1.tar.gz": "astro-ph/9301003", "arXiv_0704.0003.tar.gz": "0704.0003"},
    "saved without an ending": {"0704.0003v1": "0704.0003", "hep-th/9901001": "hep-th/9901001", "0704.0003.json": None},
    "months": {"0704/0704.0003.gz": "0704.0003", "2301/2301.00002v1.tar.gz": "2301.00002"},
    "brackets": {"my [old] papers::1/0704.0003.tar.gz": "0704.0003"},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_sources_are_found_in_every_layout_and_what_is_none_is_named(tmp_path: Path, layout: dict[str, str | None]) -> None:
    for name in layout:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        data = {".tar": tar({"ms.tex": paper(1)}), ".gz": gzip.compress(tar({"ms.tex": paper(1)}))}
        (tmp_path / name).write_bytes(data.get(Path(name).suffix, paper(1)))
    shares, strange = latex_shares([str(tmp_path)])
    found = {name_of(path)[1][0] for share in shares for path in share["papers"]}
    assert found == {name for name in layout.values() if name}
    assert [os.path.relpath(path, tmp_path) for path in strange] == sorted(name for name, known in layout.items() if known is None)


def test_the_last_lines_say_what_was_used_and_what_was_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [record(k) for k in range(1, 8)] + [
        record(20, categories="cs.LG"),
        record(21, categories="cs.LG"),
        record(22, categories="hep-th"),
    ]
    rows += [record(9, comments="This submission has been removed by arXiv administrators")]
    src = tmp_path / "src"
    (src / "astro-ph").mkdir(parents=True)
    (src / f"arXiv-{rows[0]['id']}v1.tar.gz").write_bytes(gzip.compress(tar({"ms.tex": paper(1)})))
    (src / f"{rows[1]['id']}v1.tex").write_bytes(paper(2))
    (src / f"{rows[1]['id']}v2.tex").write_bytes(paper("2 v2"))
    (src / f"{rows[2]['id']}.pdf").write_bytes(b"%PDF-1.4")
    (src / "astro-ph" / "9301003.tar.gz").write_bytes(gzip.compress(tar({"ms.tex": paper(3)})))
    (src / "draft.tex").write_bytes(paper(4))
    (src / "old.zip").write_bytes(b"PK")
    assert make("--metadata", write_lines(tmp_path / "m.jsonl", rows), "--latex", src, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-4:] == [
        "not asked for: 3 of 11 records (category 3)",
        "dropped: 1 of 11 records (withdrawn 1)",
        "LaTeX: 2 of 6 sources used, 5 metadata records without one; not used: 1 of papers not asked for, "
        f"1 whose name is no arXiv id ({src}/draft.tex), 1 refused (pdf 1), 1 of another version of one used",
        f"LaTeX: 1 files and folders beside the sources were passed over ({src}/old.zip): sources are .tex, .gz, .tar.gz, .tar",
    ]


def test_a_cut_dump_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bulk = tar({f"0704/{record(n)['id']}.gz": gzip.compress(paper(n)) for n in (3, 6, 9)})
    (tmp_path / "dump.tar").write_bytes(bulk[:2000])
    metadata = write_lines(tmp_path / "m.jsonl", [record(n) for n in (3, 6, 9)])
    assert make("--metadata", metadata, "--latex", tmp_path / "dump.tar", "--out", tmp_path / "out") == 0
    assert f"LaTeX: {tmp_path}/dump.tar: " in (said := capsys.readouterr().out) and "what follows in this dump was not read" in said


NOTHING: dict[str, tuple[list[Any], list[str], str]] = {
    "no record": ([], [], "m.jsonl: no record in 1 files; are they the right files, and whole?"),
    "blank lines": (["", " "], [], "m.jsonl: no record in 1 files"),
    "licence": ([record(k) for k in range(1, 4)], ["--license", "cc-*"],
                "of 3 records: not asked for license 3; dropped none. --license cc-* matches none of them; most have unknown 3"),
    "category": ([record(k, categories="cs.LG") for k in range(1, 4)], [],
                 "--categories astro-ph* matches none of them; most have cs.LG 3"),
    "primary": ([record(2, categories="cs.LG astro-ph")], ["--primary-only"], "--categories astro-ph* --primary-only matches none of them"),
    "date": ([record(k) for k in range(1, 4)], ["--since", "2020"], "--since 2020 matches none of them; most have 2007 3"),
    "filters": ([record(k, abstract="Too short.") for k in range(1, 4)], [], "dropped too_short 3. The filter too_short dropped most; see --filters"),
    "withdrawn": ([record(k, comments="withdrawn") for k in range(1, 4)], [], "Papers taken back stay with --keep-withdrawn"),
    "bad": (["x"], ["--bad-rows", "1"], "No record could be used; a record has id, title and abstract"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "words", "message"), NOTHING.values(), ids=list(NOTHING))
def test_nothing_made_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], words: list[str], message: str
) -> None:
    assert make("--metadata", write_lines(tmp_path / "m.jsonl", rows), *words, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: no document was made") and message in said
    assert not (tmp_path / "out").exists()


def test_sources_of_which_none_can_be_read_are_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0704.0001.gz").write_bytes(gzip.compress(b"%PDF-1.4"))
    assert make("--latex", tmp_path, "--out", tmp_path / "out") == 1
    assert "dropped source_pdf 1. the sources could not be read" in capsys.readouterr().err


def test_the_title_of_the_metadata_finds_the_paper_and_the_document_says_why(tmp_path: Path) -> None:
    row = record(3)
    right = paper("right").replace(b"Paper right", b"The {\\it star} of NGC~3")
    longer = paper("wrong").replace(b"\\end{document}", b"\\section{More}" + sentences("more", 40).encode() + b"\\end{document}")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / f"{row['id']}.gz").write_bytes(
        gzip.compress(tar({"mnras_template.tex": longer, "x.tex": right, "main.tex": longer}))
    )
    (tmp_path / "src" / f"{record(4)['id']}.gz").write_bytes(
        gzip.compress(
            tar({"00README.json": b'{"sources": [{"filename": "y.tex", "usage": "toplevel"}]}', "y.tex": paper("y"), "ms.tex": longer})
        )
    )
    assert (
        make("--metadata", write_lines(tmp_path / "m.jsonl", [row, record(4)]), "--latex", tmp_path / "src", "--out", tmp_path / "out") == 0
    )
    made = {row["id"]: row for row in documents(tmp_path / "out") + documents(tmp_path / "out", "heldout")}
    assert sentences(("right", "i"), 5) in made[row["id"]]["text"] and sentences(("y", "i"), 5) in made[record(4)["id"]]["text"]
    assert made[row["id"]]["meta"]["latex_main"] == "x.tex: its title is the metadata's"
    assert made[record(4)["id"]]["meta"]["latex_main"] == "y.tex: 00README.json names it as the top level"
    counts = json.loads((tmp_path / "out" / "counts.json").read_bytes())["latex"]
    assert counts["main file chosen: its title is the metadata's"] == 1


@pytest.mark.slow
def test_a_cut_input_copied_again_is_read_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = gzip.compress("".join(json.dumps(record(k)) + "\n" for k in range(1, 200)).encode())
    metadata = tmp_path / "m.jsonl.gz"
    metadata.write_bytes(whole[: len(whole) // 2])
    assert make("--metadata", metadata, "--out", tmp_path / "out") == 1
    assert "the copy was cut short or damaged, fetch it again" in capsys.readouterr().err
    metadata.write_bytes(whole)
    assert make("--metadata", metadata, "--out", tmp_path / "out", "--heldout", "0.5") == 1
    assert "unfinished work of another command" in capsys.readouterr().err
    assert make("--metadata", metadata, "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert said.err.count(f"inputs changed since this work was begun ({metadata}): what was made of them is made anew") == 1
    assert len(ids(tmp_path / "out")) == 199


@pytest.mark.slow
def test_sources_that_changed_are_read_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    metadata, src = write_lines(tmp_path / "m.jsonl", [record(3), record(4)]), tmp_path / "src"
    src.mkdir()
    source = src / f"{record(3)['id']}.gz"
    source.write_bytes(gzip.compress(paper("old")))
    words = ["--metadata", metadata, "--latex", src, "--out", tmp_path / "out", "--heldout", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_tools.arxiv.prepare.deliver", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert make(*words) == 130
    source.write_bytes(gzip.compress(paper("new copy")))
    (src / f"{record(4)['id']}.tex").write_bytes(paper("fresh"))
    assert make(*words) == 0
    assert "inputs changed since this work was begun (LaTeX sources)" in capsys.readouterr().err
    text = " ".join(row["text"] for row in documents(tmp_path / "out"))
    assert sentences(("new copy", "i"), 5) in text and sentences(("fresh", "i"), 5) in text
