r"""What arXiv itself was told about a source's files: 00README in each of its formats, `%auto-ignore`, the ancillary folder.

00README.XXX    ms.tex toplevelfile             the old one, a line a file; also ignore, include
00README.json   {"sources": [{"filename": "ms.tex", "usage": "toplevel"}]}       also .yaml, .toml
"""

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# where several lie there, arXiv's own order; the old format last
_ENDINGS = (".yml", ".yaml", ".json", ".jsn", ".ndjson", ".toml", ".xxx", "")
_MAX_BYTES = 1 << 16
_LINES = 10  # in which %auto-ignore counts
_AUTO_IGNORE = re.compile(rb"%\s{0,3}auto-(?:ignore|include)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Marks:
    top: tuple[str, ...]  # named as top level, in the order of 00README
    ignored: frozenset[str]  # never the paper; another file may still \input it
    source: str  # the 00README's name, "" where there is none

    def may_be_read(self, name: str) -> bool:
        """Ancillary files are beside the paper, whatever they hold."""
        return "anc" not in name.lower().split("/")[:-1]


def read_marks(files: Mapping[str, bytes]) -> Marks:
    """An unreadable 00README, or one that names files that are not there, says nothing."""
    ignored = {
        name
        for name, data in files.items()
        if _AUTO_IGNORE.search(b"\n".join(data[:4000].replace(b"\r", b"\n").split(b"\n", _LINES)[:_LINES]))
    }
    readme = min((name for name in files if _rank(name) is not None), key=_rank, default=None)
    if readme is None:
        return Marks((), frozenset(ignored), "")
    folder = posixpath.dirname(readme)
    top: list[str] = []
    for said, usage in _entries(readme, files[readme][:_MAX_BYTES].decode("utf-8-sig", "replace")):
        name = _file(posixpath.normpath(posixpath.join(folder, said.strip())), files)
        if name is None:
            continue
        if usage.startswith("toplevel") and name not in top:
            top.append(name)
        elif usage in ("ignore", "append"):
            ignored.add(name)
    return Marks(tuple(top), frozenset(ignored - set(top)), posixpath.basename(readme))


def _rank(name: str) -> tuple[int, int, str] | None:
    """The order in which 00README files count: the uppermost folder's, then by format; None for another file."""
    stem, ending = posixpath.splitext(posixpath.basename(name).lower())
    return (name.count("/"), _ENDINGS.index(ending), name) if stem == "00readme" and ending in _ENDINGS else None


def _file(path: str, files: Mapping[str, bytes]) -> str | None:
    """The file that is meant, also without .tex or in another case."""
    for wanted in (path, f"{path}.tex"):
        if wanted in files:
            return wanted
    lower = {name.lower(): name for name in files}
    return lower.get(path.lower()) or lower.get(f"{path.lower()}.tex")


def _entries(readme: str, text: str) -> list[tuple[str, str]]:
    """(file, usage) for each file that it names."""
    ending = posixpath.splitext(readme.lower())[1]
    if ending in ("", ".xxx"):
        words = [line.split("#")[0].split() for line in text.splitlines()]
        return [(" ".join(line[:-1]), line[-1].lower()) for line in words if len(line) > 1]
    value = _value(ending, text)
    sources = value.get("sources") if isinstance(value, dict) else None
    if isinstance(sources, dict):
        sources = [{"filename": name, **(more if isinstance(more, dict) else {"usage": more})} for name, more in sources.items()]
    listed = [entry for entry in sources or [] if isinstance(entry, dict)]
    return [(entry["filename"], str(entry.get("usage") or "").lower()) for entry in listed if isinstance(entry.get("filename"), str)]


def _value(ending: str, text: str) -> Any:
    """None for what cannot be read."""
    try:
        if ending in (".json", ".jsn", ".ndjson"):
            return json.loads(text)
        if ending == ".toml":
            import tomllib

            return tomllib.loads(text)
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return None
    except (ValueError, RecursionError, ImportError):
        return None
