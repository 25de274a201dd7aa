"""What the licence of a base model asks of whoever publishes a model made from it. Not legal advice: the licence's own text decides.

TERMS[identifier] → name, notice, text that must go along, what the model's name must begin with, what must be shown
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

LARGEST = 1 << 20  # bytes of a licence's text
NOTICE, LICENSE = "NOTICE", "LICENSE"
TEXTS = ("LICENSE*", "LICENCE*", "USE_POLICY*", "NOTICE*", "COPYING*")  # of a base model's folder, in any case


@dataclass(frozen=True)
class Terms:
    """A licence. notice: the line it wants kept with every copy. begins: of the model's name. shown: beside it. asks: the rest, in words."""

    name: str
    link: str
    notice: str = ""
    text: bool = True  # a copy of it must go along
    begins: str = ""
    shown: str = ""
    asks: tuple[str, ...] = ()


def _llama(version: str, link: str, prefix: str = "Llama", shown: str = "Built with Llama", meta: str = "") -> Terms:
    sign = "(c)" if version == "2" else "©"
    name = "LLAMA 2 Community License" if version == "2" else f"{meta}Llama {version} Community License"
    return Terms(
        name, link, f"{meta}Llama {version} is licensed under the {name}, Copyright {sign} Meta Platforms, Inc. All Rights Reserved.",
        begins=prefix if version != "2" else "", shown=shown if version != "2" else "",
        asks=(
            "use must follow the Acceptable Use Policy, which goes along",
            "a licensee with more than 700 million monthly active users needs a licence from Meta",
            *(("neither the model nor its output may be used to improve another large language model",) if version in ("2", "3") else ()),
        ),
    )  # fmt: skip


TERMS = {
    "llama2": _llama("2", "https://ai.meta.com/llama/license/"),
    "llama3": _llama("3", "https://www.llama.com/llama3/license/", "Llama 3", "Built with Meta Llama 3", "Meta "),
    "llama3.1": _llama("3.1", "https://www.llama.com/llama3_1/license/"),
    "llama3.2": _llama("3.2", "https://www.llama.com/llama3_2/license/"),
    "llama3.3": _llama("3.3", "https://www.llama.com/llama3_3/license/"),
    "apache-2.0": Terms("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0", asks=(
        "files that were changed must say so: all weights were (see above)", "a NOTICE file of the base model must go along")),
    "mit": Terms("MIT License", "https://opensource.org/license/mit", asks=("copyright and permission notice of the base model must go along",)),
    "gemma": Terms("Gemma Terms of Use", "https://ai.google.dev/gemma/terms",
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms", asks=(
        "the use restrictions of its section 3.2 must bind whoever receives the model",)),
    "cc-by-4.0": Terms("Creative Commons Attribution 4.0", "https://creativecommons.org/licenses/by/4.0/", text=False, asks=(
        "the base model's authors must be named, and changes be told",)),
    "cc-by-sa-4.0": Terms("Creative Commons Attribution-ShareAlike 4.0", "https://creativecommons.org/licenses/by-sa/4.0/", text=False, asks=(
        "the base model's authors must be named, changes be told, and this model be under the same licence",)),
    "cc-by-nc-4.0": Terms("Creative Commons Attribution-NonCommercial 4.0", "https://creativecommons.org/licenses/by-nc/4.0/", text=False, asks=(
        "the base model's authors must be named, changes be told; no commercial use",)),
}  # fmt: skip


@dataclass(frozen=True)
class Licensed:
    """What goes along with a model: files by name, and what is still missing before it may be published."""

    id: str
    terms: Terms | None
    files: dict[str, bytes]
    missing: tuple[str, ...]


def licensed(id: str, folders: Iterable[Path], given: Iterable[Path] = ()) -> Licensed:
    """Args: folders: of the model and its bases, the nearest first, where licence texts may lie. given: texts the user names."""
    terms, files = TERMS.get(id), {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if any(re.fullmatch(p.replace("*", ".*"), path.name, re.IGNORECASE) for p in TEXTS) and _is_text(path):
                files.setdefault(path.name, path.read_bytes())
    for path in given:
        files[path.name if _is_license(path.name) or "POLICY" in path.name.upper() else LICENSE] = path.read_bytes()
    missing = []
    if not any(_is_license(name) for name in files):
        if id == "apache-2.0" and (own := apache()):
            files[LICENSE] = own
        elif terms is None:
            missing.append(
                f"license: {id} tells nobody what they may do; give the base model's, e.g. --license llama2 or --license apache-2.0"
            )
        elif terms.text:
            missing.append(f"the text of the {terms.name} ({terms.link}), which must go along; give it by --license-file F")
    if terms and terms.notice:
        before = next((files.pop(name) for name in list(files) if name.upper().startswith(NOTICE)), b"")
        kept = b"" if terms.notice.encode() in before else terms.notice.encode() + b"\n"
        files["Notice.txt" if id.startswith("llama") else NOTICE] = kept + before
    if id.startswith("llama") and not any("POLICY" in name.upper() for name in files):
        missing.append(f"the Acceptable Use Policy of the {terms.name} (USE_POLICY.md beside its weights); give it by --license-file F")
    return Licensed(id, terms, files, tuple(missing))


def name_fault(id: str, name: str) -> str:
    """Why a model under this licence must not be called so; empty where it may."""
    terms = TERMS.get(id)
    plain = re.sub(r"[-_.\s]", "", name.rpartition("/")[2]).lower()
    if not terms or not terms.begins or plain.startswith(terms.begins.replace(" ", "").lower()):
        return ""
    return f"{name}: the {terms.name} wants the model's name to begin with {terms.begins!r}; call it {terms.begins.replace(' ', '-')}-{name.rpartition('/')[2]}"


def note(found: Licensed) -> list[str]:
    """Lines of the card: under what licence, and what it asks for."""
    terms = found.terms
    if terms is None:
        return ["The base model's licence was not known when this was made; it holds for this model, too."]
    lines = [f"This model was made from one under the [{terms.name}]({terms.link}), which holds for it, too."]
    lines += [f"**{terms.shown}.**"] if terms.shown else []
    asks = [f"its notice: {terms.notice}"] if terms.notice else []
    asks += ["a copy of its text"] if terms.text else []
    asks += [f"a model name that begins with “{terms.begins}”"] if terms.begins else []
    return [*lines, "It asks for:", "", *(f"- {one}" for one in (*asks, *terms.asks))]


def apache() -> bytes | None:
    """This program's own licence, which is the same text."""
    beside = Path(__file__).resolve().parents[2] / LICENSE
    try:
        found = (
            beside.read_bytes() if beside.is_file() else (distribution("astrollama-trainer").read_text("licenses/LICENSE") or "").encode()
        )
    except PackageNotFoundError:
        return None
    return found if b"Apache License" in found else None


def _is_license(name: str) -> bool:
    return name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))


def _is_text(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST
