"""A passage of LaTeX in a small paper → the words that the reader makes of it."""

from collections.abc import Mapping

from data_tools.latex.paper import read_paper

FILL = "The star is observed during many nights with the telescope and its light varies slowly over the season. " * 2


def words(passage: str, preamble: str = "", files: Mapping[str, bytes] | None = None, document_class: str = "article") -> str:
    """The introduction that a passage becomes, spaces made even."""
    source = (
        f"\\documentclass{{{document_class}}}\n{preamble}\n\\begin{{document}}\n\\title{{A star}}\n\\section{{Introduction}}\n"
        f"First. {passage}\nLast.\n\\section{{Data}}\n{FILL}\n\\end{{document}}\n"
    )
    found = " ".join((read_paper({"ms.tex": source.encode(), **(files or {})}, "ms.tex").introduction or "").split())
    assert found.startswith("First. ") and found.endswith("Last."), found
    return found.removeprefix("First. ").removesuffix("Last.").strip()
