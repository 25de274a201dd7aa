"""Papers made to break their reader: each must end in a reason or in sane words, in 5 s of processor time and 200 MB, with nothing read outside."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.made import processes

SECRET = "root-secret-words-that-must-not-appear"
FILL = b"The star is observed during many nights with the telescope and its light varies slowly. " * 5
CHILD = r"""
import json, re, sys, time
from pathlib import Path
from data_tools.latex.limits import PaperError
from data_tools.latex.paper import read_paper
start = time.process_time()
try:
    paper = read_paper(Path(sys.argv[1]))
    outcome = {"reason": None, "text": paper.text[:2000], "notes": paper.notes[:20], "words": len(paper.text.split())}
except PaperError as error:
    outcome = {"reason": error.reason, "text": str(error), "notes": [], "words": 0}
peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
outcome |= {"seconds": time.process_time() - start, "megabytes": peak / 1024}
print(json.dumps(outcome))
"""


def document(body: bytes, preamble: bytes = b"") -> bytes:
    return (
        b"\\documentclass{aastex}\n"
        + preamble
        + b"\\begin{document}\n\\section{Introduction}\n"
        + FILL
        + body
        + b"\n\\section{Data}\n"
        + FILL
        + b"\\end{document}\n"
    )


def loop(folder: Path) -> bytes:
    (folder / "a.tex").write_bytes(b"\\input{b} one")
    (folder / "b.tex").write_bytes(b"\\input{a} two \\input{ms}")
    return document(b"\\input{a}")


def link_out(folder: Path) -> bytes:
    (folder / "inside.tex").symlink_to(folder.parent / "secret.tex")
    (folder / "way").symlink_to(folder.parent)
    return document(b"\\input{inside}\\input{way/secret}\\import{way/}{secret.tex}")


def doubling_inputs(folder: Path) -> bytes:
    for i in range(14):
        (folder / f"f{i}.tex").write_bytes(b"\\input{f%d}\\input{f%d} words\n" % (i + 1, i + 1))
    return document(b"\\input{f0}")


def deep_inputs(folder: Path) -> bytes:
    for i in range(60):
        (folder / f"f{i}.tex").write_bytes(b"\\input{f%d}" % (i + 1))
    return document(b"\\input{f0}")


def device(folder: Path) -> bytes:
    os.mkfifo(folder / "pipe.tex")
    return document(b"\\input{pipe}\\input{/dev/zero}\\input{|yes}")


# what is written, and the reason it must end in (None: it must be read)
HOSTILE: dict[str, tuple[Callable[[Path], bytes], str | None]] = {
    "a macro that calls itself twice": (lambda _: document(b"\\a", b"\\def\\a{\\a\\a}"), "endless macros"),
    "a macro that calls itself at its end": (lambda _: document(b"\\a", b"\\newcommand{\\a}{x\\a}"), "endless macros"),
    "macros that double 25 times": (
        lambda _: document(b"\\qa", b"".join(b"\\def\\q%c{\\q%c\\q%c}" % (97 + i, 98 + i, 98 + i) for i in range(25)) + b"\\def\\qz{lol }"),
        "endless macros",
    ),
    "arguments that grow by themselves": (lambda _: document(b"\\a{xx}", b"\\newcommand{\\a}[1]{\\a{#1#1}}"), "endless macros"),
    "one line of 50 MB": (lambda _: document(b"word " * 10_000_000), "too large"),
    "one line of 3.9 MB of open brackets": (lambda _: document(b"\\cite[" * 650_000), ...),
    "3.9 MB of dollars": (lambda _: document(b"$x " * 1_300_000), ...),
    "100,000 open braces": (lambda _: document(b"{" * 100_000), "nested too deeply"),
    "100,000 nested commands": (lambda _: document(b"\\textbf{" * 100_000 + b"x" + b"}" * 100_000), "nested too deeply"),
    "100,000 nested macro arguments": (lambda _: document(b"\\a{" * 100_000 + b"x" + b"}" * 100_000, b"\\newcommand{\\a}[1]{#1}"), ...),
    "unclosed arguments 100,000 times": (lambda _: document(b"\\footnote{ \\citet{ \\section{" * 100_000), ...),
    "closing braces only": (lambda _: document(b"}" * 500_000), None),
    "100,000 environments never closed": (lambda _: document(b"\\begin{figure}\\begin{align}" * 100_000), ...),
    "nulls between all letters": (lambda _: document(b"").replace(b"e", b"\0e\0"), ...),
    "broken encodings": (lambda _: document(bytes(range(128, 256)) * 500), None),
    "binary rubbish": (lambda _: bytes(range(256)) * 4000, "binary"),
    "an absolute path": (lambda _: document(b"\\input{/etc/passwd}\\include{/etc/passwd}\\input /etc/passwd "), None),
    "a path that climbs out": (
        lambda _: document(b"\\input{../secret}\\input{x/../../secret.tex}\\import{..}{secret}\\import{../}{secret.tex}"),
        None,
    ),
    "links that lead out": (link_out, None),
    "a pipe, a device and a command": (device, None),
    "inputs in a circle": (loop, None),
    "inputs that double": (doubling_inputs, "too many inputs"),
    "inputs 60 deep": (deep_inputs, "nested too deeply"),
    "conditions never closed": (lambda _: document(b"\\iffalse \\ifx \\else " * 100_000), ...),
    "definitions never closed": (lambda _: document(b"\\newcommand{\\a}[9]{ \\def\\b#1{ " * 60_000), ...),
    "a million headings": (lambda _: document(b"\\section{a}b\n" * 300_000), ...),
    "spaces to make expressions backtrack": (
        lambda _: document((b"\\begin" + b" " * 3000) * 300 + b"(see " * 200_000 + b"%\\" * 300_000),
        ...,
    ),
    "listings never closed": (lambda _: document(b"\\begin{verbatim}\\begin{comment}\\comment " * 60_000), ...),
    "hidden parts never closed": (lambda _: document(b"\\begin{hid} x " * 100_000, b"\\excludecomment{hid}"), ...),
    "inline verbatim never closed": (lambda _: document(b"\\verb| \\lstinline{ \\url{ {{ \n" * 100_000), ...),
    "declared listings without end": (lambda _: document(b"\\newenvironment{a}{{x}{x}{x}" * 5_000 + b"\\MakeShortVerb{\\|}" * 1000), ...),
    "a number that never ends": (lambda _: document(b"\\ifnum\\a>1 x\\fi", b"\\def\\a{\\a}"), "endless macros"),
    "a number of 1,000,000 digits": (lambda _: document(b"\\ifnum" + b"1" * 1_000_000 + b">1 x\\fi"), None),
    "a definition that doubles itself": (lambda _: document(b"\\edef\\a{\\a\\a x}" * 60, b"\\def\\a{x}"), "endless macros"),
    "conditions open 100,000 deep": (lambda _: document(b"\\iftrue " * 100_000 + b"\\fi " * 100_000), None),
    "unknown conditions 20,000 times": (lambda _: document(b"\\ifnobodyknows x " * 20_000 + b"\\fi"), ...),
    "a name made of itself": (lambda _: document(b"\\a", b"\\def\\a{\\csname x\\a\\endcsname}"), "nested too deeply"),
    "a test made of itself": (lambda _: document(b"\\a", b"\\def\\a{\\ifthenelse{\\equal{\\a}{}}{x}{y}}"), "nested too deeply"),
    "an input that a macro asks for again and again": (lambda _: document(b"\\a", b"\\def\\a{\\input{\\b}\\a}\\def\\b{ms}"), ...),
    "tests nested 3,000 deep": (
        lambda _: document(b"\\ifthenelse{" + b"\\(" * 3000 + b"1<2" + b"\\)" * 3000 + b"}{x}{y}"),
        "nested too deeply",
    ),
    "groups for arguments 50,000 times": (lambda _: document(b"\\frac\\a\\a" * 50_000, b"\\def\\a{x}"), ...),
    "no document at all": (lambda _: b"", "not LaTeX"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_paper_ends_in_a_reason_or_in_words(name: str, tmp_path: Path) -> None:
    write, reason = HOSTILE[name]
    folder = tmp_path / "paper"
    folder.mkdir()
    (tmp_path / "secret.tex").write_text(SECRET)
    (folder / "ms.tex").write_bytes(write(folder))
    done = processes.run([sys.executable, "-c", CHILD, folder / "ms.tex"], seconds=60)
    assert done.returncode == 0, done.stderr[-2000:]
    outcome = json.loads(done.stdout)
    print(f"\n{name}: {outcome['reason'] or str(outcome['words']) + ' words'}, {outcome['seconds']:.2f} s, {outcome['megabytes']:.0f} MB")
    assert SECRET not in done.stdout and "root:" not in done.stdout
    if reason is not ...:
        assert outcome["reason"] == reason, outcome
    if outcome["reason"] is None:
        assert "The star is observed during many nights" in outcome["text"]
    assert outcome["megabytes"] <= 200
    assert outcome["seconds"] <= 5


def test_there_are_twenty_hostile_papers() -> None:
    assert len(HOSTILE) >= 20
