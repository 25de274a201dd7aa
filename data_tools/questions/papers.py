"""Papers from JSONL files, one a line: read one by one, and first surveyed without keeping their texts."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_tools.questions.journal import QuestionsError


@dataclass(frozen=True)
class Paper:
    id: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    def excerpt(self, characters: int) -> str:
        """As much of the text as is sent: whole words, at most so many characters."""
        if len(self.text) <= characters:
            return self.text
        return self.text[:characters].rsplit(maxsplit=1)[0]


class Surveyed(NamedTuple):
    """What is kept of a paper in memory."""

    sha256: str  # of the text
    characters: int  # of its excerpt


@dataclass(frozen=True)
class Papers:
    documents: list[Path]  # files, or folders of .jsonl and .jsonl.gz
    id_field: str
    text_field: str

    def survey(self, characters: int) -> dict[str, Surveyed]:
        """What there is, by id. Raises QuestionsError for a paper given twice, or when there is none."""
        found: dict[str, Surveyed] = {}
        for where, paper in self.read():
            if paper.id in found:
                raise QuestionsError(f"{where}: paper {paper.id!r} was there before; give each paper once")
            found[paper.id] = Surveyed(paper.sha256, len(paper.excerpt(characters)))
        if not found:
            raise QuestionsError(f"{', '.join(map(str, self.documents))}: no papers; give JSONL files of id and text, or a folder of them")
        return found

    def read(self) -> Iterator[tuple[str, Paper]]:
        """(place, paper) of every line of the documents, in their order. Raises QuestionsError."""
        for given in self.documents:
            paths = sorted([*given.glob("*.jsonl"), *given.glob("*.jsonl.gz")]) if given.is_dir() else [given]
            if not paths:
                raise QuestionsError(f"{given}: holds no .jsonl or .jsonl.gz file")
            for path in paths:
                try:
                    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
                        for number, line in enumerate(file, start=1):
                            yield f"{path}:{number}", self._paper(line, f"{path}:{number}")
                except (OSError, EOFError) as error:
                    raise QuestionsError(f"{path}: cannot be read: {error}") from None

    def _paper(self, line: bytes, where: str) -> Paper:
        try:
            value = json.loads(line)
        except ValueError as error:
            raise QuestionsError(f"{where}: not JSON: {error}") from None
        for field in (self.id_field, self.text_field):
            if not isinstance(value, dict) or not isinstance(value.get(field), str) or not value[field].strip():
                has = ", ".join(value) if isinstance(value, dict) else type(value).__name__
                raise QuestionsError(
                    f"{where}: no text in field {field!r} (it has: {has}); name the fields with --id-field and --text-field"
                )
        return Paper(value[self.id_field], value[self.text_field])
