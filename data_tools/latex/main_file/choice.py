r"""Which file of a source is the paper, and why: arXiv's own marks first, then what the files say.

files → 00README, `%auto-ignore` and anc/ → candidates: files with a \documentclass or a \begin{document} that no comment hides → one
question after another (is it \input by another, has it the paper's title, a .bbl of its name, …) until one file is left → `Choice`
"""

import os
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_tools.latex.expansion.plain import PLAIN
from data_tools.latex.limits import MAX_FILE_BYTES, MAX_INPUTS, Deadline, PaperError
from data_tools.latex.main_file.marks import Marks, read_marks
from data_tools.latex.main_file.titles import title_likeness, title_of

_HEAD_BYTES = 1 << 20
_TEX_ENDINGS = (".tex", ".ltx", ".latex")
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
_HIDING = re.compile(r"\\iffalse(?![a-zA-Z])|\\begin\s{0,9}\{((?:[vV]erbatim|lstlisting|minted|comment|filecontents)\*?)\}")
_FI = re.compile(r"\\fi(?![a-zA-Z])")
_END = re.compile(r"\\end\s{0,9}\{document\}|(?m:^\s*\\endinput\b)")
_CLASS = re.compile(r"\\document(?:class|style)\s{0,9}(?:\[[^\]]{0,2000}\])?\s{0,9}\{\s{0,9}([\w./-]{1,80})")
_BEGIN = re.compile(r"\\begin\s{0,9}\{document\}")
_INPUT = re.compile(
    r"\\(?:input|include|subfile|subfileinclude|InputIfFileExists|@input)(?![a-zA-Z])\s{0,9}(?:\{([^{}\n]{1,300})\}|\s?([^\s\\{}%\[]{1,300}))"
    r"|\\(?:import|subimport|includefrom|inputfrom|subincludefrom|subinputfrom)\*?\s{0,9}\{([^{}\n]{0,300})\}\s{0,9}\{([^{}\n]{1,300})\}"
)
_ABSTRACT = re.compile(r"\\begin\s{0,9}\{(?:abstract|onecolabstract)\*?\}|\\(?:abstract|abst|frontabstract)\b")

# words of a name, without its numbers: what is beside the paper, what came with a journal's class, what papers are called
_BESIDE = re.compile(
    r"supp|suppl|supplement\w*|suppmat|supmat|suppinfo|supinfo|supporting\w*|appendix|appendices|onlineappendix|response|responses|"
    r"(?:referee|reviewer|rev)?(?:response|reply|replies|rebuttal)(?:letter|toreferee|toreviewers?)?|referees?|refereereport|reviewers?|rebuttals?|"
    r"answers?|cover|coverletter|editor|diffs?|latexdiff|(?:ms|main|paper|manuscript)diff|diff(?:ms|main|paper)|changes?|changed|tracked|"
    r"trackchanges|marked|highlighted|old|older|backup|bak|copy|orig|original|previous|obsolete|unused|outdated|attic|archived?|trash|slides?|"
    r"talk|poster|presentation|press|pressrelease|todo|proposal|errata|erratum|figs?|figures?|plots?|images?|tables?|tikz|tikzfigs?"
)
_BESIDE_AT_THE_END = ("si", "sm", "som", "esi", "app")  # at the beginning they are silicon or the standard model
_TEMPLATE = re.compile(
    r"\w*templates?|(?:aas|aastex|mn|mne|e|mnras|aa|apj|revtex|els|elsarticle|ieee|jcap|spie|pasj|pasp)?(?:samples?|examples?|demo|doc|test)|"
    r"\w*guide|guidelines|\w*instructions?|skeleton|readme|howto|manual|dummy"
)
_PAPER = re.compile(
    r"ms|main|paper|article|manuscript|root|thesis|these|tesis|tese|tesi|dissertation|diplomarbeit|masterarbeit|bachelorarbeit|doktorarbeit|memoire|manuscrit|arxiv|arxivpaper|mainpaper|mainfile|maintext|finalpaper|mypaper|thepaper"
)
_VERSION = re.compile(
    r"v|ver|vers|version|r|rev|revised?|revision|draft|d|accepted|proofs?|submitted|submission|resub\w*|clean|new|latest|final|arxiv|[a-z]"
)
_LATER = {"submitted": 1, "submission": 1, "rev": 2, "revised": 2, "revise": 2, "revision": 2, "resubmitted": 2, "resub": 2, "new": 2}
_LATER |= {"accepted": 3, "proof": 3, "proofs": 3, "final": 4, "latest": 4}


@dataclass(frozen=True)
class Choice:
    """The paper's file; `reason` says what decided, "" where it was the only one; `rivals` are the files that could have been it."""

    name: str
    reason: str
    rivals: tuple[str, ...]

    def __str__(self) -> str:
        others = ", ".join(self.rivals[:4]) + (f" and {len(self.rivals) - 4} more" if len(self.rivals) > 4 else "")
        return f"main file {self.name}: {self.reason}; not {others}" if self.rivals else f"main file {self.name}"


def choose_main(files: Mapping[str, bytes], deadline: Deadline, title: str = "") -> Choice:
    """The main file of a paper's files; `title` is the one that its metadata give. PaperError where none is LaTeX."""
    marks = read_marks(files)
    drafts = {}
    for name, data in files.items():
        deadline.check()
        if marks.may_be_read(name) and (name.lower().endswith(_TEX_ENDINGS) or b"\\document" in data[:65536] or name in marks.top):
            drafts[name] = _Draft(name, data)
    papers = {name: draft for name, draft in drafts.items() if draft.is_document and name not in marks.ignored}
    if chosen := [name for name in marks.top if name in drafts and (drafts[name].is_document or name not in marks.ignored)]:
        rivals = tuple(sorted({*papers, *chosen} - {chosen[0]}))
        return Choice(chosen[0], f"{marks.source} names it as the top level" if rivals else "", rivals)
    if not papers:  # before LaTeX there was plain TeX
        papers = {name: draft for name, draft in drafts.items() if name not in marks.ignored and PLAIN.search(draft.text)}
    if not papers:
        raise _none(files, marks)
    return _ask(papers, _Asked(files, drafts, title), deadline)


def files_to_choose_from(folder: Path) -> dict[str, bytes]:
    """What lies in a paper's folder, as far as `choose_main` looks at it; links are not followed. PaperError where it is too much."""
    found: dict[str, bytes] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.suffix.lower() in (*_TEX_ENDINGS, ".bbl", "") or name.lower().startswith("00readme"):
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_FILE_BYTES:
                    found[path.relative_to(folder).as_posix()] = path.read_bytes()
            if len(found) > MAX_INPUTS * 4:
                raise PaperError("too large", f"{folder} has more than {MAX_INPUTS * 4} files of TeX; name the main file")
    return found


def _none(files: Mapping[str, bytes], marks: Marks) -> PaperError:
    if marks.ignored and all(len(data) < 2000 or name in marks.ignored for name, data in files.items()):
        return PaperError(
            "not LaTeX", f"{sorted(marks.ignored)[0]} says %auto-ignore, or 00README says so: nothing is left, as of a withdrawn paper"
        )
    return PaperError("not LaTeX", f"none of {len(files)} files has a \\documentclass and a \\begin{{document}}")


class _Draft:
    """A TeX file, as far as the choice looks into it."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.size = name, len(data)
        text = data[:_HEAD_BYTES].decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
        text = _without_hidden(_COMMENT.sub(r"\1", text))
        self.text = _END.split(text, maxsplit=1)[0]
        found = _CLASS.search(self.text)
        self.document_class = found[1].rsplit("/")[-1].lower() if found else ""
        self.is_document = bool(found or _BEGIN.search(self.text))

    @cached_property
    def wanted(self) -> list[str]:
        """Names of the files that it asks for."""
        return [(m[1] or m[2] or posixpath.join(m[3] or "", m[4] or "")).strip().strip('"') for m in _INPUT.finditer(self.text)]

    @cached_property
    def words(self) -> list[str]:
        """Words of its folders' and its own name, without numbers."""
        path = self.name.lower()
        stem = posixpath.splitext(path)[0] if path.endswith(_TEX_ENDINGS) else path
        return _words(stem)

    @cached_property
    def stem_words(self) -> list[str]:
        return _words(posixpath.splitext(posixpath.basename(self.name.lower()))[0])

    @cached_property
    def family(self) -> list[str]:
        """Words of its name that are of no version."""
        return [word for word in self.stem_words if not _VERSION.fullmatch(word)] or self.stem_words[:1]

    @cached_property
    def version(self) -> tuple[int, ...]:
        stem = posixpath.splitext(posixpath.basename(self.name.lower()))[0]
        said = max((_LATER.get(word, 0) for word in self.stem_words), default=0)
        return said, *(int(number[:12]) for number in re.findall(r"\d+", stem)[:6])


def _without_hidden(text: str) -> str:
    r"""Without listings, comment environments and what stands in \iffalse."""
    out, at = [], 0
    while begin := _HIDING.search(text, at):
        ends = (
            _FI.search(text, begin.end())
            if begin[1] is None
            else re.compile(rf"\\end\{{{re.escape(begin[1])}\}}").search(text, begin.end())
        )
        if ends is None:
            break
        out.append(text[at : begin.start()])
        at = ends.end()
    return "".join(out) + text[at:]


def _words(name: str) -> list[str]:
    """Of `mainv2_new`: main, v, new."""
    return [word for word in re.split(r"[^a-z]+", re.sub(r"(?<!re)v(?=\d)", "_v", name)) if word]


class _Asked:
    """What the questions need to know of all files together."""

    def __init__(self, files: Mapping[str, bytes], drafts: Mapping[str, _Draft], title: str) -> None:
        self.title, self.drafts = title, drafts
        self.by_lower = {name.lower(): name for name in files}
        self.reads = {name: self._found(draft) for name, draft in drafts.items()}
        self.read_by_others = {found for name, reads in self.reads.items() for found in reads if found != name}

    def _found(self, draft: _Draft) -> list[str]:
        """The files of the source that it asks for, from the top or beside it."""
        found = []
        for wanted in draft.wanted:
            for folder in ("", posixpath.dirname(draft.name)):
                path = posixpath.normpath(posixpath.join(folder, wanted)).lower()
                if name := next((self.by_lower[each] for each in (path, f"{path}.tex") if each in self.by_lower), None):
                    found.append(name)
                    break
        return found

    def whole(self, name: str) -> list[str]:
        """It and all that it reads."""
        seen, waiting = {name: None}, [name]
        while waiting:
            for found in self.reads.get(waiting.pop(), ()):
                if found not in seen:
                    seen[found] = None
                    waiting.append(found)
        return list(seen)

    # ---- the questions; the greatest answer stays ----

    def stands_alone(self, draft: _Draft) -> int:
        return draft.name not in self.read_by_others

    def is_of_a_paper(self, draft: _Draft) -> int:
        kinds = {
            "subfiles": 0,
            "standalone": 0,
            "minimal": 0,
            "letter": 1,
            "scrlttr2": 1,
            "beamer": 1,
            "slides": 1,
            "tikzposter": 1,
            "dinbrief": 1,
        }
        return kinds.get(draft.document_class, 2)

    def has_the_title(self, draft: _Draft) -> int:
        """2 for the very title of the metadata, 1 for one much like it."""
        return title_likeness(self.its_title(draft), self.title) if self.title else 0

    def its_title(self, draft: _Draft) -> str:
        texts = (self.drafts[name].text for name in self.whole(draft.name) if name in self.drafts)
        return next((title for text in texts if (title := title_of(text))), "")

    def stands_for_itself(self, draft: _Draft) -> int:
        """Not by its name or title a supplement, a response, an older copy, …"""
        beside = any(_BESIDE.fullmatch(word) for word in draft.words) or draft.words[-1:] in [[word] for word in _BESIDE_AT_THE_END]
        said = re.match(
            r"\W*(?:online\W+)?(?:supp(?:lement|orting)|response|reply|repl(?:y|ies) to|referee|cover letter|appendix\b)"
            r"|.*\btitle goes here|.*\btemplate\b.*\b(?:article|latex|title)|.*\blatex\W+template|.*\b(?:sample|example) (?:article|paper|document|manuscript)",
            self.its_title(draft)[:300].replace("\\", " "),
            re.IGNORECASE | re.S,
        )
        return -2 * beside - bool(said)

    def has_its_bbl(self, draft: _Draft) -> int:
        return f"{posixpath.splitext(draft.name)[0]}.bbl".lower() in self.by_lower

    def stands_high(self, draft: _Draft) -> int:
        return -draft.name.count("/")

    def is_no_template(self, draft: _Draft) -> int:
        return not any(_TEMPLATE.fullmatch(word) for word in draft.words)

    def is_called_so(self, draft: _Draft) -> int:
        """Called `ms`, `main`, … with a version or none; `paper_for_v2` is not."""
        return len(draft.family) == 1 and bool(_PAPER.fullmatch(draft.family[0]))

    def has_an_abstract(self, draft: _Draft) -> int:
        return any(_ABSTRACT.search(self.drafts[name].text) for name in self.whole(draft.name) if name in self.drafts)

    def is_the_latest(self, draft: _Draft) -> int:
        """Of the files that are called alike but for version, date or `final`."""
        return all(other.version <= draft.version for other in self.drafts.values() if other.is_document and other.family == draft.family)

    def length(self, draft: _Draft) -> tuple[int, int]:
        return sum(self.drafts[name].size for name in self.whole(draft.name) if name in self.drafts), draft.size


def _ask(papers: Mapping[str, _Draft], asked: _Asked, deadline: Deadline) -> Choice:
    questions: list[tuple[str, Callable[[_Draft], object]]] = [
        ("no other file reads it", asked.stands_alone),
        ("its class is a paper's", asked.is_of_a_paper),
        ("its title is the metadata's", asked.has_the_title),
        ("the others are supplements, responses or older copies by their names", asked.stands_for_itself),
        ("a .bbl of its name lies beside it", asked.has_its_bbl),
        ("it lies in the upper folder", asked.stands_high),
        ("the others are templates by their names", asked.is_no_template),
        ("it is called as papers are", asked.is_called_so),
        ("it has an abstract", asked.has_an_abstract),
        ("it is the later version by its name", asked.is_the_latest),
        ("it is the longest", asked.length),
    ]
    left, rivals = sorted(papers), tuple(sorted(papers))
    reason = ""
    for said, question in questions:
        if len(left) == 1:
            break
        deadline.check()
        answers = {name: question(papers[name]) for name in left}
        best = max(answers.values())
        left = [name for name in left if answers[name] == best]
        reason = said
    if len(left) > 1:
        reason = "it is the first by name of equals"
    return Choice(left[0], reason, tuple(name for name in rivals if name != left[0]))
