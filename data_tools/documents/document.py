"""Documents: what preparation stages hand to each other, and the file they lie in.

`documents/*.jsonl.gz`, one `{"id", "text", "meta"}` a line; the same documents make the same bytes.
"""

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.files.atomic import write_atomically


class DocumentError(ValueError):
    """A documents file that is not one; says which line and why."""


@dataclass(frozen=True)
class Document:
    id: str
    text: str
    meta: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        return json.dumps({"id": self.id, "text": self.text, "meta": self.meta}, ensure_ascii=False) + "\n"


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write a .jsonl.gz file whole or not at all; return the number of documents."""
    buffer, count = io.BytesIO(), 0
    with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0, compresslevel=6) as file:
        for document in documents:
            file.write(document.to_line().encode())
            count += 1
    write_atomically(path, buffer.getbuffer())
    return count


def read_documents(path: Path) -> Iterator[Document]:
    """Raises DocumentError on a line that is not a document."""
    with gzip.open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield Document(row["id"], row["text"], row["meta"])
            except (ValueError, KeyError, TypeError) as error:
                raise DocumentError(f"{path}:{number}: not a document ({error!r}); make the file again with data_tools.prepare") from error
