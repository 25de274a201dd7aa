"""Export: seconds, rate, share of what the disk allows, and peak memory, beside DeepSpeed's own converter and beside cp.

Every row is a whole process, imports included, started with the source out of the page cache (--warm leaves it there). The disk's own
rates are taken in the same run: a plain read of the source, a plain write with a sync.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.benchmark import disk
from train.benchmark.ranks import BenchError
from train.recipe.load import ROOT

OURS = "export_hf.py"
# runs a command and prints its seconds and peak memory: a light process in between, since a child's peak counts its parent's pages
LAUNCHER = """
import json, os, sys, time
begun = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(pid, 0)
print(json.dumps([time.perf_counter() - begun, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)]))
"""
CAST = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
import torch
for file in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    tensors = {n: t.to(torch.bfloat16) for n, t in load_file(file).items()}
    save_file(tensors, Path(sys.argv[2]) / file.name, metadata={"format": "pt"})
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", type=Path, help="export this checkpoint; else one is made")
    parser.add_argument("--parameters", type=float, default=0.4e9, help="of the model made (default: %(default)g)")
    parser.add_argument("--kind", choices=("ours", "deepspeed"), default="deepspeed", help="of the checkpoint made (default: %(default)s)")
    parser.add_argument("--dir", type=Path, default=Path("."), help="where to make and write it all: the disk measured (default: here)")
    parser.add_argument("--repeats", type=int, default=1, help="measurements of each row, the fastest counts (default: %(default)s)")
    parser.add_argument("--config", type=Path, help="config folder for a --source that has none")
    parser.add_argument("--alone", action="store_true", help="only our own export: half the disk, a fifth of the time")
    parser.add_argument("--warm", action="store_true", help="leave the source in the page cache")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if not args.dir.is_dir():
        raise BenchError(f"--dir {args.dir}: no such folder; give one on the disk to be measured")
    with tempfile.TemporaryDirectory(prefix=".bench-export-", dir=args.dir) as name:
        work = Path(name).resolve()
        task = _task((args.source or _made(work / "step_000001", args.parameters, args.kind)).resolve(), args.config)
        commands = _commands(task, work, args)
        rates: dict[str, list[float]] = {"read": [], "write": []}
        rows: dict[str, dict[str, Any]] = {}
        for turn in range(args.repeats):
            rates["read"].append(disk.read_rate(task.files, not args.warm, 2 << 30))
            rates["write"].append(disk.write_rate(work / "plain", min(task.write_bytes, 2 << 30)))
            for label, steps in commands.items():
                seconds, peak = _timed_steps(steps, task, work, args.warm)
                if label not in rows or seconds < rows[label]["seconds"]:
                    rows[label] = {"what": label, "seconds": round(seconds, 2), "peak MB": round(peak / 1e6)}
                if turn == 0 and label == OURS and (work / "cast").is_dir():
                    os.rename(work / "out", work / "first")  # to be compared
        report = _report(task, rows, max(rates["read"]), max(rates["write"]), args.warm)
        if (work / "cast").is_dir():
            report["tensors bit-equal to zero_to_fp32 + cast"] = _same(work / "first", work / "cast")
        return report


def _made(folder: Path, parameters: float, kind: str) -> Path:
    from train.benchmark import made_models

    shape = made_models.shape_of(parameters, made_models.VOCABULARY if parameters >= 10e6 else 512)
    return (made_models.checkpoint if kind == "ours" else made_models.deepspeed_checkpoint)(folder, shape)


@dataclass(frozen=True)
class Task:
    """An export to bf16: what it reads and writes at the least."""

    source: Path
    files: list[Path]
    is_deepspeed: bool
    parameters: int
    read_bytes: int

    @property
    def write_bytes(self) -> int:
        return 2 * self.parameters


def _task(source: Path, config: Path | None) -> Task:
    from train.export import plan
    from train.model_files.dtypes import BF16

    ready = plan.prepare(plan.Request(checkpoint=source, out=source / "out", dtype=BF16, config=config))
    ready.close()
    parameters, [opened] = sum(t.numel for t in ready.tensors.values()), ready.opened
    if not opened.stored:
        return Task(source, sorted(source.rglob("*_optim_states.pt")), True, parameters, 4 * parameters)
    read_bytes = sum(t.numel * opened.stored[n].itemsize for n, t in opened.tensors.items())
    return Task(source, sorted(source.glob("*.safetensors")), False, parameters, read_bytes)


def _commands(task: Task, work: Path, args: argparse.Namespace) -> dict[str, list[list[str]]]:
    """What is measured, each one or several processes."""
    ours = [sys.executable, str(ROOT / "launch" / "export_hf.py"), str(task.source), str(work / "out")]
    commands = {OURS: [ours + (["--config", str(args.config.resolve())] if args.config else [])]}
    if args.alone:
        return commands
    if not task.is_deepspeed:
        copy = f"mkdir {work}/copy && cp {task.source}/*.safetensors {work}/copy && sync {work}/copy/*"
        return commands | {"cp + sync": [["sh", "-c", copy]]}
    found = importlib.util.find_spec("deepspeed")
    if found and found.submodule_search_locations:
        script = work / "zero_to_fp32.py"  # as the engine leaves a copy in every checkpoint; beside its siblings it imports them
        shutil.copy(Path(next(iter(found.submodule_search_locations))) / "utils" / script.name, script)
        (work / "cast").mkdir()
        commands["zero_to_fp32.py + cast"] = [
            [sys.executable, str(script), str(task.source), str(work / "fp32"), "--safe_serialization"],
            [sys.executable, "-c", CAST, str(work / "fp32"), str(work / "cast")],
        ]
    return commands


def _timed_steps(steps: list[list[str]], task: Task, work: Path, warm: bool) -> tuple[float, int]:
    """Seconds of processes one after the other, and the largest peak, with what earlier ones have left out of the way."""
    for left in ("out", "fp32", "copy"):
        shutil.rmtree(work / left, ignore_errors=True)
    if not warm:
        disk.forget(task.files)
    os.sync()
    figures = [_timed(step) for step in steps]
    return sum(s for s, _ in figures), max(m for _, m in figures)


def _report(task: Task, rows: dict[str, dict[str, Any]], read_rate: float, write_rate: float, warm: bool) -> dict[str, Any]:
    bound = task.read_bytes / read_rate + task.write_bytes / write_rate
    base = rows[OURS]["seconds"]
    for row in rows.values():
        row |= {
            "GB/s out": round(task.write_bytes / 1e9 / row["seconds"], 3),
            "share of bound %": round(100 * bound / row["seconds"], 1),
            "ours is × as fast": round(row["seconds"] / base, 2),
        }
    return {
        "parameters": task.parameters,
        "bytes read": task.read_bytes,
        "bytes written": task.write_bytes,
        "page cache": "warm" if warm else "cold",
        "disk reads GB/s": round(read_rate / 1e9, 2),
        "disk writes GB/s": round(write_rate / 1e9, 2),
        "bound s (read, then write)": round(bound, 2),
        "rows": list(rows.values()),
    }


def _timed(command: list[str]) -> tuple[float, int]:
    """Seconds and peak memory of a whole process."""
    done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], capture_output=True, text=True, cwd=ROOT)
    seconds, peak, code = json.loads(done.stdout.strip().splitlines()[-1])
    if code:
        raise BenchError(f"{' '.join(command[:3])}: exit {code}\n{done.stderr[-2000:]}")
    return seconds, peak


def _same(one: Path, other: Path) -> str:
    import torch
    from safetensors import safe_open

    def places(folder: Path) -> dict[str, Path]:
        found = {}
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as f:
                found |= dict.fromkeys(f.keys(), file)
        return found

    ours, theirs = places(one), places(other)
    equal = 0
    for name in ours.keys() & theirs.keys():
        with safe_open(ours[name], "pt") as f, safe_open(theirs[name], "pt") as g:
            equal += torch.equal(f.get_tensor(name).view(torch.int16), g.get_tensor(name).view(torch.int16))
    return f"{equal} of {len(ours.keys() | theirs.keys())}"
