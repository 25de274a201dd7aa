"""arXiv metadata and LaTeX sources → documents, through the command."""

import gzip
import json
import re
from pathlib import Path

import pytest

from data_tools.archives.limits import ArchiveError
from data_tools.arxiv.make import is_heldout
from data_tools.arxiv.metadata import RecordError, Selection, is_withdrawn, paper_id, parse, repaired_id, short_license
from data_tools.arxiv.paper_reader import PaperReader
from data_tools.documents.clean import MATH, clean_abstract, clean_tex, clean_title
from tests.made.papers import documents, make, paper, record, sentences, tar, tree, write_lines
from tests.made.where import SHARED

# ---- cleaning ----


@pytest.mark.parametrize(
    ("tex", "words"),
    [
        (r"Gaier {\it et al.} and {\em Planck\/} show", "Gaier et al. and Planck show"),
        (r"\emph{Euclid}'s \textbf{first \textit{data}}", "Euclid's first data"),
        (r"Erd\H{o}s, Alfv\'en, M\"{u}ller, {\L}ojasiewicz, Stra\ss e, na\"{\i}ve", "Erdős, Alfvén, Müller, Łojasiewicz, Straße, naïve"),
        (r"Espa\~na, Pe\~{n}a~1999, Earth\'s", "España, Peña 1999, Earth's"),
        (r"{\'E}. \c{C}elik, \v{S}idlichovsk\'y, \AA ngstr\"om at 3 \AA", "É. Çelik, Šidlichovský, Å ngström at 3 Å"),
        (r"Fig.~1 of NGC~1275, $z$~is 69~yr, T\&S", "Fig. 1 of NGC 1275, $z$ is 69 yr, T&S"),
        (r"\sim: at z~1, M_BH~10^9 and (~10\%)", r"\sim: at z~1, M_BH~10^9 and (~10%)"),
        ("at z~1 and Fig~2, no TeX at all", "at z~1 and Fig~2, no TeX at all"),
        (r"``quoted'' text , and 1.33\,ms in 5''.2", "“quoted” text, and 1.33 ms in 5''.2"),
        ("``plain'' {words}", "“plain” words"),
        (r"\textcolor{black}{kept} \href{http://a.b/~c}{link} \cite{x}", "kept link"),
        (r"72{\deg}S; {\sc{spex}}; H{\sc i}; \texorpdfstring{$x$}{x}", "72°S; spex; Hi; $x$"),
        (r"$\rm {\it x}~\'e$ stays, \(\emph{y}~z\) too", r"$\rm {\it x}~\'e$ stays, \(\emph{y}~z\) too"),
        (r"a lost $ dollar, {\it so} nothing~is touched", r"a lost $ dollar, {\it so} nothing~is touched"),
        ("x &lt; y &amp; z", "x < y & z"),
    ],
)
def test_markup_goes_and_words_and_mathematics_stay(tex: str, words: str) -> None:
    assert clean_tex(tex) == words


def test_line_wraps_go_and_indented_lines_begin_paragraphs() -> None:
    assert clean_abstract("  One line\nand its wrap.\n  A second paragraph\nhere.\n\n  A third.\n") == (
        "One line and its wrap.\n\nA second paragraph here.\n\nA third."
    )
    assert (
        clean_title("Prompt diphoton production at Tevatron and\n  LHC energies")
        == "Prompt diphoton production at Tevatron and LHC energies"
    )


@pytest.mark.skipif(not SHARED.exists(), reason="the real abstracts are not beside this checkout")
def test_mathematics_of_real_abstracts_comes_out_byte_for_byte() -> None:
    seen = 0
    with gzip.open(SHARED / "abstracts/astro_validation.jsonl.gz", "rt") as file:
        for line in file:
            text = " ".join(json.loads(line)["abstract"].split())
            formulas = [found[0] for found in MATH.finditer(text)]
            seen += len(formulas)
            assert [found[0] for found in MATH.finditer(clean_tex(text))] == formulas, text
    assert seen > 2000


@pytest.mark.timeout(30)
def test_long_hostile_abstracts_are_cleaned_or_refused() -> None:
    for piece in ("a", "{", r"\it{", "~", "$", r"\'", "{{}", "(~"):
        assert len(clean_tex(piece * (19_000 // len(piece)))) <= 19_000
    with pytest.raises(RecordError, match="abstract of 30000 characters"):
        parse(record(1, abstract="a" * 30_000))


# ---- ids, dates, licences, choice ----


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("hep-ph9901001", ("hep-ph/9901001", 0)),
        ("hep-ph/9901001v2", ("hep-ph/9901001", 2)),
        ("astro-ph_0105001", ("astro-ph/0105001", 0)),
        ("math.GT/0309136", ("math/0309136", 0)),
        ("arXiv:2301.00001v3", ("2301.00001", 3)),
        ("0704.0001", ("0704.0001", 0)),
        ("2301.0001", None),
        ("0704.00001", None),
        ("2313.00001", None),
        ("ms", None),
        ("ngc1275", None),
    ],
)
def test_ids_of_both_styles_are_read_from_file_names(name: str, found: tuple[str, int] | None) -> None:
    assert paper_id(name) == found


def test_ids_that_a_table_held_as_numbers_are_repaired() -> None:
    wrong = ["1501.0171599999999", "1501.0380300000002", "1501.038", "704.001", "704.0001"]
    assert [repaired_id(name) for name in wrong] == ["1501.01716", "1501.03803", "1501.03800", "0704.0010", "0704.0001"]
    assert repaired_id("1501.01715432") is None and repaired_id("9913.01") is None


def test_the_first_version_dates_a_paper() -> None:
    assert parse(record(2)).date == "2007-04-02"
    assert parse(record(2, versions=None, date="1993-01")).date == "1993-01"
    assert parse(record(2, id="astro-ph/9301002", versions=None)).date == "1993-01"
    assert parse(record(2, versions=[{"version": "v3", "created": "nonsense"}])).version == 3


def test_licences_get_short_names() -> None:
    urls = ["http://creativecommons.org/licenses/by-nc-nd/4.0/", "http://creativecommons.org/publicdomain/zero/1.0/",
            "http://arxiv.org/licenses/nonexclusive-distrib/1.0/", None]  # fmt: skip
    assert [short_license(url) for url in urls] == ["cc-by-nc-nd-4.0", "cc0-1.0", "arxiv-nonexclusive-1.0", "unknown"]


@pytest.mark.parametrize(
    ("selection", "why"),
    [
        ({}, None),
        ({"primary_only": True}, "category"),
        ({"categories": ("gr-qc", "hep-*"), "primary_only": True}, None),
        ({"categories": ("cs.*",)}, "category"),
        ({"since": "2007-04-02", "until": "2007-04-02"}, None),
        ({"since": "2007", "until": "2007"}, None),
        ({"since": "2007-05"}, "date"),
        ({"until": "2007-03"}, "date"),
        ({"licenses": ("cc-*",)}, "license"),
        ({"licenses": ("cc-*", "unknown")}, None),
    ],
)
def test_papers_are_chosen_by_category_date_and_licence(selection: dict, why: str | None) -> None:
    assert Selection(**selection).why_not(parse(record(1))) == why


@pytest.mark.parametrize(
    "comments", ["This paper has been withdrawn by the authors", "Withdrawn due to an error in eq. 3", "submission withdrawn"]
)
def test_comments_tell_a_withdrawn_paper(comments: str) -> None:
    assert is_withdrawn(parse(record(1, comments=comments)))


def test_abstracts_tell_a_withdrawn_paper_and_gas_may_be_withdrawn() -> None:
    assert is_withdrawn(parse(record(1, abstract="This paper has been\nwithdrawn due to a crucial error.")))
    assert not is_withdrawn(parse(record(1, abstract="We show that gas is withdrawn from the disk. " + sentences(1, 3))))
    assert not is_withdrawn(parse(record(1, comments="12 pages, replaces the earlier proceedings")))


# ---- the command ----


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
                place / "out", "--heldout", "0.3", "--decontaminate", place / "exam.json") == 0  # fmt: skip
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
    assert make("--metadata", metadata, "--documents", others, "--out", tmp_path / "out") == 0
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


# ---- one paper's limits ----


def test_a_paper_that_takes_too_long_is_killed_and_the_next_is_read() -> None:
    with PaperReader(seconds=0.001) as reader:
        with pytest.raises(ArchiveError, match="time_limit: not done within 0.001 s of processor time"):
            reader.read(paper(1))
        reader.seconds = 30
        assert re.match("We find", reader.read(paper(2))["introduction"])
        with pytest.raises(ArchiveError, match="not_LaTeX"):
            reader.read(b"plain words")
        assert reader.read(paper(3))["title"] == "Paper 3"
