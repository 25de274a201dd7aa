"""The headings of a body: those its class spells, and those its author set by hand where these lack, or lack the introduction or conclusion."""

from data_tools.latex.headings.by_hand import mark_by_hand, name_run_in_headings
from data_tools.latex.headings.spelled import LEVELS, headings_of, spell_headings
from data_tools.latex.headings.titles import BACK, plain_title
from data_tools.latex.limits import Deadline


def find_headings(text: str, deadline: Deadline) -> tuple[str, list[tuple[str, str, int, int]]]:
    """The body with its headings as LaTeX spells them, and for each (level, title, start, end); "appendix" and "matter" without a title where that begins or ends."""
    text = spell_headings(text)
    headings = headings_of(text, deadline)
    real = [(level, plain_title(title)) for level, title, *_ in headings if level in LEVELS]
    real = [(level, title) for level, title in real if not BACK.search(title)]
    marked = mark_by_hand(text, headings if real else [], deadline)
    if marked == text and not real:
        marked = name_run_in_headings(text)
    return marked, headings if marked == text else headings_of(marked, deadline)
