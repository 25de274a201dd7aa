"""Which file of a source is the paper: every mark that arXiv or an author leaves, against a longer rival."""

import json

import pytest

from data_tools.latex.limits import Deadline, PaperError
from data_tools.latex.main_file.choice import choose_main
from data_tools.latex.main_file.titles import title_likeness, title_of
from data_tools.latex.paper import main, read_paper

WORDS = "Stars and their planets are seen with a telescope for a whole year. "


def tex(title: str = "", body: str = "", length: int = 1, *, kind: str = "article", head: str = "", abstract: bool = True) -> bytes:
    about = f"\\begin{{abstract}}{WORDS}\\end{{abstract}}" if abstract else ""
    titled = f"\\title{{{title}}}" if title else ""
    return (
        f"{head}\\documentclass{{{kind}}}\n{titled}\\begin{{document}}{about}\\section{{Introduction}}{body}{WORDS * length}\\end{{document}}\n"
    ).encode()


LONG = tex("Another", length=50)
TITLE = "The dust of NGC 3603"
CASES: dict[str, dict[str, bytes]] = {  # the right file is called right.tex, or R.tex, or begins with a "!"
    "00README.XXX toplevelfile": {"00README.XXX": b"right.tex toplevelfile\n", "right.tex": tex(), "main.tex": LONG},
    "00README.XXX with blanks and returns": {"00README.XXX": b"nostamp\r\n right.tex   toplevelfile \r\nfig.eps ignore\r\n", "right.tex": tex(), "ms.tex": LONG},
    "00README.XXX with a name with blanks": {"00README.XXX": b"right one.tex toplevelfile", "right one.tex": tex(), "ms.tex": LONG},
    "00README.XXX without the ending": {"00README.XXX": b"right toplevelfile", "right.tex": tex(), "ms.tex": LONG},
    "00README.XXX ignore": {"00README.XXX": b"ms.tex ignore\n", "right.tex": tex(), "ms.tex": LONG},
    "00README.XXX of two": {"00README.XXX": b"right.tex toplevelfile\nms.tex toplevelfile\n", "right.tex": tex(), "ms.tex": LONG},
    "00README.XXX of a missing file": {"00README.XXX": b"gone.tex toplevelfile\n", "right.tex": LONG, "b.tex": tex()},
    "00README.xxx": {"00README.xxx": b"right.tex toplevelfile\n", "right.tex": tex(), "main.tex": LONG},
    "00README.XXX against an input": {"00README.XXX": b"right.tex toplevelfile\n", "right.tex": tex(), "main.tex": tex(body="\\input{right}")},
    "00README.XXX in the folder": {"p/00README.XXX": b"right.tex toplevelfile\n", "p/right.tex": tex(), "p/main.tex": LONG},
    "00README.json": {
        "00README.json": json.dumps({"process": {"compiler": "pdflatex"}, "sources": [{"usage": "toplevel", "filename": "right.tex"}]}).encode(),
        "right.tex": tex(), "main.tex": LONG,
    },
    "00README.json ignore": {
        "00README.json": json.dumps({"sources": [{"filename": "main.tex", "usage": "ignore"}]}).encode(), "right.tex": tex(), "main.tex": LONG,
    },
    "00README.json damaged": {"00README.json": b'{"sources": [', "right.tex": LONG, "b.tex": tex()},
    "00README.yaml": {
        "00README.yaml": b"spec_version: 1\nprocess:\n  compiler: pdflatex\nsources:\n  - filename: right.tex\n    usage: toplevel\n",
        "right.tex": tex(), "main.tex": LONG,
    },
    "00README.yml": {"00README.yml": b"sources:\n- {usage: toplevel, filename: 'right.tex'}\n", "right.tex": tex(), "main.tex": LONG},
    "00README.toml": {"00README.toml": b'[[sources]]\nfilename = "right.tex"\nusage = "toplevel"\n', "right.tex": tex(), "main.tex": LONG},
    "00README.yaml before .XXX": {
        "00README.XXX": b"main.tex toplevelfile", "00README.yaml": b"sources: [{filename: right.tex, usage: toplevel}]", "right.tex": tex(), "main.tex": LONG,
    },
    "these.tex of a thesis in French": {"right": b"these.tex", "these.tex": tex(abstract=False), "packagedoc.tex": LONG},
    "diplomarbeit.tex": {"right": b"diplomarbeit.tex", "diplomarbeit.tex": tex(abstract=False), "packagedoc.tex": LONG},
    "%auto-ignore": {"right.tex": tex(), "main.tex": b"%auto-ignore\n" + LONG},
    "% auto-ignore in line 3": {"right.tex": tex(), "main.tex": b"% a\n% b\n%%auto-ignore\n" + LONG},
    "%auto-include": {"right.tex": tex(), "main.tex": b"%auto-include\n" + LONG},
    "%auto-ignore far below is a remark": {"right.tex": LONG + b"\n" * 20 + b"%auto-ignore\n", "b.tex": tex()},
    "anc": {"right.tex": tex(), "anc/main.tex": LONG, "anc/main.bbl": b"x"},
    "anc, whose file reads the paper": {"right.tex": tex(), "anc/main.tex": tex(body="\\input{../right}\\input{right}", length=50)},
    "a .bbl": {"right.tex": tex(), "right.bbl": b"\\begin{thebibliography}{}\\end{thebibliography}", "b.tex": LONG},
    "a .bbl in capitals": {"right.TEX": tex(), "right.BBL": b"x", "b.tex": LONG},
    "the title": {"right.tex": tex(TITLE), "main.tex": LONG, "main.bbl": b"x"},
    "the title with commands": {"right.tex": tex("\\bf The {D}ust of~NGC\\,3603\\thanks{Based on data from ESO}"), "main.tex": LONG},
    "the title in another file": {"right.tex": tex(body="\\input{front}"), "front.tex": b"\\title{The Dust of NGC~3603}", "main.tex": LONG},
    "the title, nearly": {"right.tex": tex("The hot dust of NGC 3603"), "main.tex": LONG},
    "the title of the supplement": {"right.tex": tex(TITLE), "main.tex": tex(f"Supplementary material for: {TITLE}", length=50)},
    "a title in a remark": {"right.tex": tex(TITLE), "main.tex": b"%\\title{The dust of NGC 3603}\n" + LONG},
    "the paper in the sample": {"sample631.tex": tex("Something else", length=50), "right.tex": tex(TITLE)},
    "the paper in the template": {"mnras_template.tex": tex("Something else", length=50), "right.tex": tex(TITLE)},
    "a commented \\input": {"right.tex": LONG, "b.tex": tex(body="\n%\\input{right}\n")},
    "a commented \\input behind words": {"right.tex": LONG, "b.tex": tex(body="words % \\include{right}\n")},
    "an \\input in a comment environment": {"right.tex": LONG, "b.tex": tex(body="\\begin{comment}\\input{right}\\end{comment}")},
    "an \\input in \\iffalse": {"right.tex": LONG, "b.tex": tex(body="\\iffalse\\input{right}\\fi ")},
    "an \\input behind the end": {"right.tex": LONG, "b.tex": tex() + b"\\input{right}"},
    "an escaped percent sign is no comment": {"right.tex": tex(body="5\\% \\input{main}"), "main.tex": LONG},
    "an \\input with another class": {"right.tex": tex(body="\\input{main}"), "main.tex": LONG},
    "an \\input without braces": {"right.tex": tex(body="\\input main "), "main.tex": LONG},
    "an \\input with the ending in a folder": {"right.tex": tex(body="\\include{parts/main.tex}"), "parts/main.tex": LONG},
    "an \\import": {"right.tex": tex(body="\\import{parts/}{main}"), "parts/main.tex": LONG},
    "two that read each other": {"right.tex": tex(body="\\input{b}", length=50), "b.tex": tex(body="\\input{right}")},
    "a subfile": {"right.tex": tex(), "chapter.tex": tex(kind="subfiles", length=50)},
    "a figure by itself": {"right.tex": tex(), "fig1.tex": tex(kind="standalone", length=50)},
    "a letter": {"right.tex": tex(), "b.tex": tex(kind="letter", length=50)},
    "slides": {"right.tex": tex(), "b.tex": tex(kind="beamer", length=50)},
    "a commented class": {"right.tex": tex(), "b.tex": b"%\\documentclass{article}\n" + WORDS.encode() * 90},
    "a class in another file": {"right.tex": b"\\input{head}\\begin{document}\\input{body}\\end{document}", "head.tex": b"\\documentclass{article}", "body.tex": LONG[80:]},
    "old LaTeX": {"right.tex": b"\\documentstyle[12pt]{article}\\begin{document}" + WORDS.encode() + b"\\end{document}", "b.tex": WORDS.encode() * 90},
    "the version": {"paper_v2.tex": tex(), "paper_v1.tex": LONG, "right": b"paper_v2.tex"},
    "the version of two digits": {"paper_v10.tex": tex(), "paper_v9.tex": LONG, "right": b"paper_v10.tex"},
    "the version without a line": {"mainv3.tex": tex(), "mainv2.tex": LONG, "right": b"mainv3.tex"},
    "a version against none": {"ms_v2.tex": tex(), "ms.tex": LONG, "right": b"ms_v2.tex"},
    "the final version": {"paper_final.tex": tex(), "paper_v3.tex": LONG, "right": b"paper_final.tex"},
    "the revised version": {"ms_rev1.tex": tex(), "ms.tex": LONG, "right": b"ms_rev1.tex"},
    "the version by date": {"draft_20190410.tex": tex(), "draft_20190304.tex": LONG, "right": b"draft_20190410.tex"},
    "numbers of names that are not alike are no versions": {"right.tex": LONG, "colm2024_conference.tex": tex(), "abc7.tex": tex()},
    "an old copy": {"ms.tex": tex(), "ms_old.tex": LONG, "right": b"ms.tex"},
    "a folder of old copies": {"right.tex": tex(), "old/main.tex": LONG, "old/main.bbl": b""},
    "a folder below": {"right.tex": tex(), "more/b.tex": LONG},
    "an empty abstract-less neighbour": {"right.tex": tex(), "b.tex": tex(abstract=False, length=50)},
    "nothing but length": {"right.tex": LONG, "b.tex": tex()},
}  # fmt: skip
BESIDE = (
    "supp supplement supplementary supp_mat SupplementaryMaterial suppl SI paper_SI paper_supp appendix response Response_to_referee reply "
    "referee referee_reply rebuttal reviewer1 cover cover_letter coverletter diff ms_diff diff_v1_v2 latexdiff changes old backup ms_bak "
    "ms_copy poster slides talk press_release sample631 sample63 aassample mnras_template aastex_template template aa-example "
    "mn2esample mn2eguide elsarticle-template-num authorguide instructions"
)
CASES |= {
    f"{name} beside right": {f"{name}.tex": tex("Another", length=50), "right.tex": tex("The dust of another")} for name in BESIDE.split()
}
CASES |= {
    f"{name} beside b": {f"{name}.tex": tex(), "b.tex": LONG, "right": f"{name}.tex".encode()}
    for name in ("ms", "main", "paper", "article", "manuscript", "Main", "ms1", "arxiv", "main_arxiv", "paper_final_v2", "root")
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_paper_is_chosen_by_marks_before_length(case: dict[str, bytes]) -> None:
    files = {name: data for name, data in case.items() if name != "right"}
    right = case.get("right", b"").decode() or next(
        name for name in files if name.rpartition("/")[2].lower().startswith("right") and name.lower().endswith(".tex")
    )
    title = TITLE if any(TITLE.encode() in data for name, data in files.items()) or any(b"NGC" in data for data in files.values()) else ""
    for order in (list(files), list(files)[::-1]):
        choice = choose_main({name: files[name] for name in order}, Deadline(), title)
        assert choice.name == right, choice
        assert bool(choice.reason) == bool(choice.rivals)


def test_a_lone_file_is_the_paper_whatever_it_is_called() -> None:
    for name in ("supp.tex", "mnras_template.tex", "response.tex", "paper", "a/b/old.TEX", "fig.ltx"):
        choice = choose_main({name: tex(), "x.sty": b"", "table.tex": b"1 & 2"}, Deadline())
        assert (choice.name, choice.reason, choice.rivals) == (name, "", ())


def test_a_withdrawn_source_and_one_without_latex_are_refused_with_a_reason() -> None:
    with pytest.raises(PaperError, match="auto-ignore.*withdrawn paper"):
        choose_main({"main.tex": b"%auto-ignore\nThis paper has been withdrawn.\n"}, Deadline())
    with pytest.raises(PaperError, match="none of 1 files has a .documentclass"):
        choose_main({"main.tex": b"\\input amstex Plain words."}, Deadline())


def test_the_choice_and_its_reason_are_told(tmp_path, capsys: pytest.CaptureFixture) -> None:
    files = {"a.tex": tex("A", body="Right words."), "a.bbl": b"", "b.tex": LONG}
    assert read_paper(files).notes == ["main file a.tex: a .bbl of its name lies beside it; not b.tex"]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "Right words." in json.loads(said.out)["introduction"] and "main file a.tex: a .bbl of its name" in said.err
    assert main([str(tmp_path / "b.tex")]) == 0
    assert "main file" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("title", "other", "likeness"),
    [
        (r"The {\it Kepler}\ view of $\Lambda$CDM", "The Kepler view of ΛCDM", 2),
        (r"G\"unther's stars", "Günther's stars", 2),
        (r"The stars\footnote{Based on \emph{data}} of Orion", "The Stars of Orion", 2),
        ("Stars of Orion and Taurus in the infrared", "Stars of Orion and Taurus in the optical", 1),
        ("Stars", "Planets", 0),
        ("", "Planets", 0),
    ],
)
def test_titles_are_compared_by_their_words(title: str, other: str, likeness: int) -> None:
    assert title_likeness(title, other) == likeness


def test_a_title_ends_with_its_own_brace() -> None:
    assert title_of(r"\titlerunning{no}\title[short]{A {\bf B} \{c\} d}{e}") == r"A {\bf B} \{c\} d"
    assert title_of(r"\title{never closed") == "" and title_of("none") == ""


@pytest.mark.timeout(20)
def test_hostile_sources_cost_little() -> None:
    deep = {f"{k}.tex": tex(body=f"\\input{{{k + 1}}}\\input{{{k}}}") for k in range(300)}
    assert choose_main(deep, Deadline(20)).name == "0.tex"
    for piece in (b"\\title{", b"\\input{a", b"%", b"\\iffalse ", b"\\documentclass[", b"\\thanks{"):
        choose_main({"a.tex": tex() + piece * (900_000 // len(piece)), "b.tex": tex(body=(piece * 9_000).decode())}, Deadline(20))
    bomb = b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [*%c,*%c,*%c,*%c]\n" % (c + 1, c + 1, c, c, c, c) for c in range(97, 110))
    assert choose_main({"00README.yaml": bomb, "a.tex": tex(), "00README.json": b"[" * 60_000}, Deadline()).name == "a.tex"
