"""Small made-up papers for the tests of `prepare arxiv`: metadata lines, LaTeX sources, bulk tars."""

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

from data_tools import prepare

NOUNS = "galaxy cluster halo star disk pulsar nebula quasar planet wind burst merger lens filament corona dwarf binary spectrum".split()
VERBS = "shows traces heats follows loses forms drives absorbs reveals exceeds".split()
ENDINGS = "in the survey,with a large scatter,at low metallicity,for most of its life,as the model predicts,beyond the virial radius".split(
    ","
)


def sentences(seed: object, count: int) -> str:
    draw = random.Random(str(seed))
    return " ".join(
        f"We find that the {draw.choice(NOUNS)} {draw.choice(NOUNS)} {draw.choice(VERBS)} the {draw.choice(NOUNS)} of NGC "
        f"{draw.randrange(9999)} {draw.choice(ENDINGS)} by {draw.randrange(99)} percent, which is not what {draw.choice(NOUNS)} theories expect."
        for _ in range(count)
    )


def record(number: int, **changes: Any) -> dict[str, Any]:
    """A line as Kaggle's snapshot has it."""
    name = f"{[704, 1203, 2301][number % 3]:04d}.{number:0{4 if number % 3 < 2 else 5}d}"
    fields = {
        "id": name,
        "title": f"The {NOUNS[number % 18]} of\n  NGC {number}",
        "authors": "A. Nobody",
        "comments": "12 pages",
        "categories": ["astro-ph.GA gr-qc", "hep-th astro-ph", "astro-ph"][number % 3],
        "license": None,
        "abstract": "  " + sentences(number, 4).replace(". We", ".\nWe") + "\n",
        "versions": [{"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"}],
        "update_date": "2008-01-01",
    }
    return {**fields, **changes}


def write_lines(path: Path, rows: list[Any]) -> Path:
    data = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def paper(seed: object) -> bytes:
    return (
        rf"\documentclass{{article}}\title{{Paper {seed}}}\begin{{document}}\maketitle"
        rf"\begin{{abstract}}{sentences((seed, 'a'), 3)}\end{{abstract}}"
        rf"\section{{Introduction}}{sentences((seed, 'i'), 5)}\section{{Data}}{sentences((seed, 'd'), 5)}"
        rf"\section{{Conclusions}}{sentences((seed, 'c'), 4)}"
        r"\end{document}"
    ).encode()


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def make(*words: object, workers: int = 1) -> int:
    return prepare.main(["arxiv", *map(str, words), "--buckets", "2", "--workers", str(workers)])


def documents(out: Path, folder: str = "documents") -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted((out / folder).glob("*.jsonl.gz")) for line in gzip.open(path, "rt", encoding="utf-8")]


def tree(out: Path) -> dict[str, bytes]:
    """Every file that was made, but not the logs."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "logs" not in path.parts
    }
