"""Rows that wait between the tasks of `prepare arxiv`: JSON lines in files by bucket, a hash of the id.

Buckets depend on ids alone, so documents depend neither on how the input is cut into files nor on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_tools.files.atomic import sync


class Buckets:
    """Rows by bucket in a folder that appears whole, or not at all."""

    def __init__(self, folder: Path, buckets: int) -> None:
        self.folder, self.buckets = folder, buckets
        self.aside = folder.with_name(f".{folder.name}.tmp")

    def __enter__(self) -> Buckets:
        shutil.rmtree(self.aside, ignore_errors=True)
        self.aside.mkdir(parents=True)
        self.files = [open(self.aside / f"{bucket:03d}.jsonl", "wb") for bucket in range(self.buckets)]
        return self

    def write(self, row: dict[str, Any]) -> None:
        self.files[bucket_of(row["id"], self.buckets)].write(line_of(row))

    def __exit__(self, kind: type | None, *_: object) -> None:
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.replace(self.aside, self.folder)
            sync(self.folder.parent)


def bucket_of(name: str, buckets: int) -> int:
    return name_hash("bucket", name) % buckets


def name_hash(purpose: str, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8, person=purpose.encode()).digest(), "big")


def grouped(folder: Path, bucket: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob(f"[0-9]*/{bucket:03d}.jsonl")):
        for row in rows(path):
            found[row["id"]].append(row)
    return found


def rows(path: Path) -> Iterable[dict[str, Any]]:
    with open(path, "rb") as file:
        for line in file:
            yield json.loads(line)


def line_of(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"  # a lone surrogate is no text
