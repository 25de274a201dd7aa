"""Without which a figure says nothing: commit, machine, versions, what joins the ranks; and results that are kept, with a line each.

`circumstances()` → plain values for a report; `keep(report, name)` → launch/results/NAME.json and its line of the table there.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from train.recipe.load import ROOT

RESULTS = ROOT / "launch" / "results"
TABLE = "README.md"
NEEDED = ("command", "commit", "machine", "date", "versions")  # of every report
COLUMNS = ("result", "part", "figure", "machine", "commit", "date")
PACKAGES = ("torch", "deepspeed", "transformers", "numpy", "pyarrow", "flash-attn", "liger-kernel", "triton")
UNCOMMITTED = " with uncommitted changes"


class ResultError(ValueError):
    """A result that cannot be kept, and why."""


def circumstances() -> dict[str, Any]:
    """commit, machine, versions and interconnect of this process."""
    return {"commit": commit(), "machine": machine(), "versions": versions(), "interconnect": interconnect()}


def commit() -> str:
    """Of the checkout, and whether files differ from it."""

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()
        except OSError:  # no git here
            return ""

    found = git("rev-parse", "--short=12", "HEAD") or "unknown (not a git checkout)"
    changed = [line for line in git("status", "--porcelain", "--untracked-files=no").splitlines() if "launch/results/" not in line]
    return found + (UNCOMMITTED if changed else "")


def machine() -> str:
    return f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}" + "".join(f"; {card}" for card in cards())


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cards() -> list[str]:
    """`8 x NVIDIA H100 80GB HBM3`, as the driver tells; none without one."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()] if not done.returncode else []
    return [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def versions() -> dict[str, str]:
    """Of the packages that decide a speed, where installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def interconnect(devices: Path = Path("/sys/class")) -> str:
    """What this node's ranks and nodes are joined by, as the system tells: NVLink, InfiniBand ports, Ethernet with its rate."""
    found = []
    try:
        done = subprocess.run(["nvidia-smi", "nvlink", "--status"], capture_output=True, text=True, timeout=20)
        rates = re.findall(r"Link \d+: ([\d.]+) GB/s", done.stdout)
        if rates:
            found.append(f"NVLink, {rates[0]} GB/s a link")
    except (OSError, subprocess.TimeoutExpired):
        pass
    found += [f"{path.parts[-4]} {_text(path)}" for path in sorted(devices.glob("infiniband/*/ports/*/rate"))]
    for path in sorted(devices.glob("net/*/speed")):
        rate = _text(path)
        if path.parent.name != "lo" and rate.isdigit() and int(rate) > 0:
            found.append(f"{path.parent.name} {int(rate) / 1000:g} Gb/s")
    return "; ".join(found) or "memory of one node"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def require_keepable(name: str, folder: Path = RESULTS, of: str | None = None) -> None:
    """Raises ResultError, before anything is measured, where the result could not be kept."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ResultError(f"--keep {name}: give lower-case letters, digits, '.', '_' and '-'; it names the file")
    if not (folder / TABLE).is_file():
        raise ResultError(
            f"--keep {name}: {folder}/{TABLE} is not here; results are kept in a checkout of the program, elsewhere use --json"
        )
    if (of or commit()).endswith(UNCOMMITTED):
        raise ResultError(
            f"--keep {name}: files differ from the commit that would stand beside the figure; commit them first, or use --json"
        )


def keep(report: dict[str, Any], part: str, name: str, folder: Path = RESULTS) -> Path:
    """Write NAME.json and its line of the table, over those of that name before; the JSON's path."""
    path, table = folder / f"{name}.json", folder / TABLE
    path.write_text(json.dumps(report, indent=1) + "\n")
    cells = {"result": f"[{name}]({name}.json)", "part": f"`{part}`", "figure": figure(report), "date": report["date"][:10]}
    cells |= {key: report[key] for key in ("machine", "commit")}
    line = "| " + " | ".join(str(cells[column]).replace("|", "/") for column in COLUMNS) + " |"
    lines = table.read_text().splitlines()
    at = next((k for k, old in enumerate(lines) if old.startswith(f"| [{name}](")), len(lines))
    table.write_text("\n".join([*lines[:at], line, *lines[at + 1 :]]) + "\n")
    return path


def figure(report: dict[str, Any]) -> str:
    """The report's own `figure`, or its first row in words."""
    if "figure" in report:
        return report["figure"]
    row = next(iter(report.get("rows", [])), {})
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())


def kept(folder: Path = RESULTS) -> dict[str, dict[str, str]]:
    """name → cells of its line of the table, by column."""
    rows = [line.strip("|").split(" | ") for line in (folder / TABLE).read_text().splitlines() if line.startswith("| [")]
    cells = [dict(zip(COLUMNS, (cell.strip() for cell in row), strict=True)) for row in rows]
    return {re.match(r"\[(.+)\]\(\1\.json\)$", row["result"])[1]: row for row in cells}
