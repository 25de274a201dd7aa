r"""One paper's LaTeX → title, abstract, introduction, conclusion, sections and text, as words with their mathematics.

The way of a paper: its files are found (tree.py), decoded and freed of comments (expansion/source.py) → inputs come to
their places, conditions are decided, the author's macros carried out (expansion/expander.py) → labels get their numbers (references.py) → formulas become marks
(formulas.py) → floats and bibliography go, the rest falls into sections (sections.py) → each becomes prose
(prose.py) → the formulas return. No TeX program is run. A paper that resists raises PaperError with its reason.

    python -m data_tools.latex PAPER.tex
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from data_tools.latex.citations import citation_names
from data_tools.latex.expansion.expander import expand
from data_tools.latex.expansion.plain import split_document
from data_tools.latex.expansion.shorthands import spelled_out
from data_tools.latex.expansion.source import cut_comments, decode, shown
from data_tools.latex.formulas import protect, restore
from data_tools.latex.headings.by_hand import number_before
from data_tools.latex.limits import MAX_SECTIONS, SECONDS_PER_PAPER, Deadline, PaperError
from data_tools.latex.main_file.choice import choose_main, files_to_choose_from
from data_tools.latex.prose import Context, prose
from data_tools.latex.references import acronyms, citation_aliases, number_labels
from data_tools.latex.sections import (
    Section,
    classify,
    cut_abstract,
    cut_back_parts,
    cut_environments,
    cut_thanks,
    cut_title,
    english_abstract,
    split_sections,
)
from data_tools.latex.tidy import HEADING
from data_tools.latex.tree import Files, Tree

MIN_WORDS = 20
MAX_ABSTRACT = 1500
_LABEL = re.compile(r"\\label\s{0,9}\{\s{0,9}([^{}\n]{1,200}?)\s{0,9}\}")


@dataclass(frozen=True)
class Paper:
    """A paper as words; `introduction` and `conclusion` are None where it has none, `sections` are {title, kind, text}."""

    title: str
    abstract: str | None
    introduction: str | None
    conclusion: str | None
    sections: list[dict[str, str]]
    text: str
    notes: list[str]  # why the main file is this one, where it could be another; files asked for and not read


def read_paper(paper: Path | str | Mapping[str, bytes], main: str | None = None, *, seconds: float = SECONDS_PER_PAPER) -> Paper:
    """One paper from its main file's path, or from its folder or its files in memory, the main one chosen if not named.

    Raises PaperError with a reason.
    """
    deadline = Deadline(seconds)
    notes: list[str] = []
    if isinstance(paper, Mapping) or Path(paper).is_dir():
        tree = Tree(paper if isinstance(paper, Mapping) else Path(paper))
        if main is None:
            choice = choose_main(paper if isinstance(paper, Mapping) else files_to_choose_from(Path(paper)), deadline)
            main, notes = choice.name, [str(choice)] if choice.rivals else []
    else:
        path = Path(paper)
        if not path.is_file():
            raise PaperError("no main file", f"{path} is not a file")
        tree, main = Tree(path.parent), path.name
    files = _FreshFiles(tree, main, notes, deadline)
    source = expand(files.open, main, deadline)
    if source.count("section{") > 10 * MAX_SECTIONS:
        raise PaperError("too many sections", f"{source.count('section{')} headings; no paper has {10 * MAX_SECTIONS}")
    head, document = split_document(source, main, deadline)
    context = _context(source, _bibliography(tree, main), deadline)
    title, body = cut_title(document, deadline)
    abstract, body = cut_abstract(body, deadline)
    if not title or not abstract:
        title, abstract = title or cut_title(head, deadline)[0], abstract or cut_abstract(head, deadline)[0]
    abstract, body = english_abstract(abstract, body, deadline)
    passages = _Passages(context, files.last.language, deadline)
    return _assemble(passages.words(title), passages.words(cut_environments(abstract, deadline)), passages.sections(body), notes)


class _FreshFiles:
    """The paper's files, opened again where the expansion begins again; `notes` are those of the last time."""

    def __init__(self, tree: Tree, main: str, notes: list[str], deadline: Deadline) -> None:
        self._tree, self._main, self._notes, self._deadline, self._before = tree, main, notes, deadline, len(notes)

    def open(self) -> Files:
        del self._notes[self._before :]
        self.last = Files(self._tree, self._main, self._notes, self._deadline)
        return self.last


def _bibliography(tree: Tree, main: str) -> str:
    names = [str(Path(main).with_suffix(".bbl")), *(name for name in tree.names() if name.endswith(".bbl"))]
    try:
        return next((cut_comments(decode(data, name)) for name in names if (data := tree.read(name)) is not None), "")
    except PaperError:
        return ""  # names of citations only: a paper is not worse for lacking them


def _context(source: str, bibliography: str, deadline: Deadline) -> Context:
    labels = number_labels(source, deadline)
    for found in _LABEL.finditer(source) if any(not number for _, number in labels.values()) else ():
        kind, number = labels.get(found[1], ("", "?"))
        if not number:
            labels[found[1]] = kind, number_before(source, found.start(), deadline)
    return Context(
        labels=labels,
        names=citation_names(bibliography + source, deadline),
        aliases=citation_aliases(source),
        acronyms=acronyms(source, deadline),
    )


class _Passages:
    def __init__(self, context: Context, language: str, deadline: Deadline) -> None:
        self._context, self._language, self._deadline = context, language, deadline

    def words(self, tex: str) -> str:
        """A passage on its own as words."""
        text, formulas = self._protected(tex)
        self._context.seen.clear()
        return self._prose(text, formulas).replace(HEADING, "")

    def sections(self, body: str) -> list[Section]:
        """The body's sections as words."""
        text, formulas = self._protected(cut_thanks(cut_environments(body, self._deadline)))
        self._context.seen.clear()
        sections = split_sections(text, self._deadline)
        for section in sections:
            self._deadline.check()
            section.title = self._prose(section.title, formulas).replace("\n", " ")
            section.text = cut_back_parts(self._prose(section.text, formulas))
        return sections

    def _protected(self, tex: str) -> tuple[str, list[str]]:
        text, formulas = protect(tex, self._deadline)
        return spelled_out(text, self._language), formulas

    def _prose(self, text: str, formulas: list[str]) -> str:
        return shown(restore(prose(text, self._context, self._deadline), formulas))


def _assemble(title: str, abstract: str, sections: list[Section], notes: list[str]) -> Paper:
    for section in [s for s in sections if s.title.strip(" .:").lower() == "abstract"]:
        first, _, rest = section.text.partition("\n\n")
        if len(section.text.split()) > MAX_ABSTRACT and len(first.split()) > MIN_WORDS:  # what follows it has no heading
            abstract, section.text, section.title = abstract or first, rest, ""
            continue
        abstract = abstract or section.text
        sections.remove(section)
    title = " ".join(title.split())
    introduction, conclusion = classify(sections)
    for section in {id(s): s for s in (*sections, conclusion) if s}.values():
        section.text = section.text.replace(HEADING, "")
    kept = [s for s in sections if s.kind != "back" and s.text.strip()]
    text = "\n\n".join(part for part in (title, abstract, *(p for s in kept for p in (s.title, s.text))) if part)
    if len(text.split()) < MIN_WORDS:
        raise PaperError("no text", f"{len(text.split())} words are left; at least {MIN_WORDS} make a paper")
    return Paper(
        title=title,
        abstract=abstract or None,
        introduction=introduction.text if introduction else None,
        conclusion=conclusion.text if conclusion else None,
        sections=[asdict(s) for s in kept],
        text=text,
        notes=notes,
    )


def main(arguments: list[str] | None = None) -> int:
    """Print one paper as JSON; exit status 1 with one message when it cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.latex",
        description="One paper's LaTeX as words, one JSON object on stdout.",
        epilog="example: python -m data_tools.latex paper/ms.tex > paper.json",
    )
    about = "the main file, whose inputs are read from its own folder; or a paper's folder, whose main file is chosen (stderr says why)"
    parser.add_argument("paper", type=Path, metavar="PAPER.tex", help=about)
    paper_path = parser.parse_args(arguments).paper
    try:
        paper = read_paper(paper_path)
    except (PaperError, OSError) as error:
        print(f"{paper_path}: {error}", file=sys.stderr)
        return 1
    json.dump(asdict(paper), sys.stdout, ensure_ascii=False, indent=1)
    print()
    for note in paper.notes:
        print(f"{paper_path}: {note}", file=sys.stderr)
    print(f"{paper_path}: {len(paper.text.split())} words in {len(paper.sections)} sections, printed to stdout", file=sys.stderr)
    return 0
