"""One paper's limits: no paper stops the work."""

import re

import pytest

from data_tools.archives.limits import ArchiveError
from data_tools.arxiv.paper_reader import PaperReader
from tests.made.papers import paper


def test_a_paper_that_takes_too_long_is_killed_and_the_next_is_read() -> None:
    with PaperReader(seconds=0.001) as reader:
        with pytest.raises(ArchiveError, match="time_limit: not done within 0.001 s of processor time"):
            reader.read(paper(1))
        reader.seconds = 30
        assert re.match("We find", reader.read(paper(2))["introduction"])
        with pytest.raises(ArchiveError, match="not_LaTeX"):
            reader.read(b"plain words")
        assert reader.read(paper(3))["title"] == "Paper 3"
