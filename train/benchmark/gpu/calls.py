"""One GPU in as many calls as its time is cut into: tests marked gpu, speed beside a peer, what needs a large card or host memory.

`gpu --call 1`, `--call 2`, `--call 3`, each within `--minutes`, or all without `--call`. Every part runs in a process of its own, leaves a JSON
in the folder as soon as it is done, and is passed by where it fails, hangs or runs out of memory. What it needs and is not there is skipped
by name. Nothing of ours on the way imports pyarrow or datasets. `--device cpu` tries all of it in tiny shapes, without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from train.benchmark.circumstances import circumstances
from train.benchmark.gpu.tasks import Task, tasks
from train.benchmark.ranks import BenchError
from train.benchmark.sweep.attempts import Attempt, attempt, watched
from train.benchmark.sweep.sweeper import ended_by_exception
from train.recipe.load import ROOT
from train.world.machine import host_available
from train.world.voice import say

LEAST_SECONDS = 20  # a part that has less is left out
TESTS_AT_ONCE = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--call", type=int, choices=(1, 2, 3), action="append", help="only this part of the whole, or these (default: all)")
    add("--minutes", type=float, default=9.5, help="of one call; what does not fit is left out, by name (default: %(default)s)")
    add("--out", type=Path, metavar="DIR", help="where the JSON goes (default: $OUT, else runs/benchmarks/gpu)")
    add("--only", metavar="WORD", help="parts that have it in their name")
    add("--device", choices=("cuda", "cpu"), help="cpu: tiny shapes, to try the whole (default: cuda)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError where there is no GPU, or nothing is left to do."""
    small = args.device == "cpu"
    if small:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    else:
        import torch

        if not torch.cuda.is_available():
            raise BenchError("no CUDA device is here: the whole is tried in small by --device cpu")
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    folder = (args.out or Path(os.environ.get("OUT") or "runs/benchmarks/gpu")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [t for t in tasks(small) if (not args.call or t.call in args.call) and (args.only or "") in t.name]
    if not wanted:
        raise BenchError(f"--only {args.only}: no part has that in its name; there are {', '.join(t.name for t in tasks(small))}")
    rows: list[dict[str, Any]] = []
    ends: dict[int, float] = {}
    with ended_by_exception():
        for task in wanted:
            end = ends.setdefault(task.call, time.monotonic() + 60 * args.minutes)
            rows.append(_row(task, *_done(task, end - time.monotonic(), folder)))
            (folder / "summary.json").write_text(json.dumps({**circumstances(), "rows": rows}, indent=1) + "\n")
    return {"figure": _figure(rows), "folder": str(folder), **_beside(rows, wanted), "rows": rows}


def _done(task: Task, left: float, folder: Path) -> tuple[str, str, dict[str, Any] | None]:
    """What came of a part: how it ended, what it said, and its result."""
    if lacking := [need for need in task.needs if not _there(need, folder)]:
        say(f"{task.name}: skipped: no {', no '.join(lacking)}")
        return "skipped", f"no {', no '.join(lacking)}", None
    if left < LEAST_SECONDS:
        say(f"{task.name}: left out: the call's time is over")
        return "left out", "the call's time is over", None
    limit = min(task.seconds, left)
    say(f"{task.name}: begun, at most {limit:.0f} s")
    log = folder / "logs" / f"{task.name}.txt"
    if task.job:
        job = task.job if not task.job.trace else type(task.job).of(task.job.to_dict() | {"trace": str(folder / task.job.trace)})
        found = attempt(job, 1, limit, log)
    else:
        found = _command(task, limit, log)
    report = {"task": task.name, **circumstances(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "outcome": found.outcome}
    report |= {"said": found.said, "seconds": found.seconds, "result": found.result}
    (folder / f"{task.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    say(f"{task.name}: {found.outcome} after {found.seconds:.0f} s{f': {found.said}' if found.said else ''}")
    return found.outcome, found.said, found.result


def _command(task: Task, limit: float, log: Path) -> Attempt:
    """A command of Python; its result is the line behind RESULT, or what pytest or the table of a part says last."""
    words = [sys.executable, *task.words]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if "pytest" in task.words:  # those files alone: others import what a bare machine lacks
        files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text())
        if not files:
            return Attempt("skipped", "no test here is marked gpu", None, 0.0)
        words += files
        if importlib.util.find_spec("xdist") and (beside := min(TESTS_AT_ONCE, (os.cpu_count() or 1) // 2)) > 1:
            words += ["-n", str(beside)]  # each starts a process of its own for its ranks, for which a card waits
        env |= {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
        env |= {"DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cuda")}  # tests are for a CPU unless told otherwise
    result = log.with_suffix(".json")
    words += ["--json", str(result)] if "launch/benchmark.py" in task.words else []
    found = watched(words, env, result, limit, log, cwd=ROOT)
    if found.result:
        return found
    text = log.read_text(errors="replace")
    if line := re.search(r"^RESULT (\{.*\})$", text, re.MULTILINE):
        return Attempt("measured", "", json.loads(line[1]), found.seconds)
    counts = re.findall(r"^(?:=+ )?((?:\d+ \w+,? ?)+) in [\d.]+s", text, re.MULTILINE)
    if "pytest" in task.words and counts and "failed" not in counts[-1] and "error" not in counts[-1]:
        return Attempt("measured" if "passed" in counts[-1] else "skipped", counts[-1], {"tests": counts[-1]}, found.seconds)
    return Attempt(found.outcome, counts[-1] if counts else found.said, None, found.seconds)


def _there(need: str, folder: Path) -> bool:
    """A package, a program, or so many GiB of memory or disk."""
    if sized := re.match(r"(.+) (\d+) GiB", need):
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            return True  # tiny shapes
        return FREE[sized[1]](folder) >= int(sized[2]) * 2**30
    return importlib.util.find_spec(need) is not None or shutil.which(need) is not None


def _of_card(_: Path) -> int:
    import torch

    return torch.cuda.get_device_properties(0).total_memory


FREE = {"host memory": lambda _: host_available(), "disk": lambda folder: shutil.disk_usage(folder).free, "device memory": _of_card}


def _row(task: Task, outcome: str, said: str, result: dict[str, Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"part": task.name, "outcome": outcome}
    if result and "tokens_per_second_per_gpu" in result:
        main = (result.get("rows") or [{}])[0]
        found |= {"tokens/s": result["tokens_per_second_per_gpu"], "MFU %": main.get("MFU %"), "HFU %": main.get("HFU %")}
        found |= {"peak GiB": result["peak_memory_gib"]}
    return found | ({"said": said} if said else {})


def _beside(rows: list[dict[str, Any]], known: list[Task]) -> dict[str, Any]:
    """Our best rate over the peer's best, of each comparison where both were measured."""
    rates = {row["part"]: row["tokens/s"] for row in rows if row.get("tokens/s")}
    found = {}
    for name in dict.fromkeys(task.beside for task in known if task.beside):
        ours, peers = (
            [rates[t.name] for t in known if t.beside == name and t.is_peer == peer and t.name in rates] for peer in (False, True)
        )
        if ours and peers:
            found[f"best {name} / best peer"] = round(max(ours) / max(peers), 3)
    return found


def _figure(rows: list[dict[str, Any]]) -> str:
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in dict.fromkeys(row["outcome"] for row in rows)}
    return f"{len(rows)} parts: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
