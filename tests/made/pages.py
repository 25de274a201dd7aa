"""The commands that pages and recipe heads tell their readers to type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.made.where import ROOT

PAGES = ("README.md", "launch/README.md", "data_tools/README.md", "ds_configs/README.md")
STARTS = r"(?:[A-Z_]+=\S+ )*(?:python|deepspeed|hf|make|astrollama|srun|sbatch|bash|pip|mkdir|torchrun)\b(?! is| and| or|,|'s)"


@dataclass(frozen=True)
class Told:
    """A command as it is written, without the remark behind it, and the page it stands on."""

    page: str
    command: str


def commands() -> list[Told]:
    """Every one: lines of code blocks, code within sentences, and the lines of recipe heads."""
    found = [Told(page, command) for page in PAGES for command in _of_page((ROOT / page).read_text(encoding="utf-8"))]
    for recipe in sorted((ROOT / "launch" / "recipes").glob("*.yaml")):
        page = str(recipe.relative_to(ROOT))
        found += [Told(page, command) for command in _of_head(recipe.read_text(encoding="utf-8"))]
    return found


def _of_page(text: str) -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [_bare(text) for text in (*lines, *(" ".join(span.split()) for span in spans)) if re.match(STARTS + r" \S", text)]


def _of_head(text: str) -> list[str]:
    head = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return [_bare(found[1]) for line in head if (found := re.match(rf"(?:.*?(?:: |  ))?({STARTS} \S.*)", line))]


def _bare(line: str) -> str:
    """Without `  # remark`, or what stands in a head behind three blanks or in brackets."""
    return re.split(r"\s+# |\s{3,}", line)[0].strip()
