"""Export: seconds, rate, share of what the disk allows, and peak memory, beside DeepSpeed's own converter and beside cp.

Every row is a whole process, imports included, started with the source out of the page cache (--warm leaves it there). The disk's own
rates are taken in the same run: a plain read of the source, a plain write with a sync.
"""

import argparse
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 8 << 20
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


class BenchError(ValueError):
    """A measurement that could not be made."""


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
    args.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-export-", dir=args.dir) as name:
        work = Path(name)
        source = args.source or make(work / "step_000001", int(args.parameters), args.kind)
        return _measure(source.resolve(), work.resolve(), args)


def _measure(source: Path, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    from train.export import plan as export_plan
    from train.model_files.dtypes import BF16

    request = export_plan.Request(checkpoint=source, out=work / "out", dtype=BF16, config=args.config)
    ready = export_plan.prepare(request)
    parameters = sum(t.numel for t in ready.tensors.values())
    is_deepspeed = not ready.sources[0].stored
    read_bytes = (
        4 * parameters if is_deepspeed else sum(t.numel * ready.sources[0].stored[n].itemsize for n, t in ready.sources[0].tensors.items())
    )
    files = sorted(source.rglob("*_optim_states.pt")) if is_deepspeed else sorted(source.glob("*.safetensors"))
    ready.close()
    write_bytes = 2 * parameters
    rates: dict[str, list[float]] = {"read": [], "write": []}
    rows: dict[str, dict[str, Any]] = {}
    shared = [sys.executable, "-c"]
    commands: dict[str, list[list[str]]] = {
        "export_hf.py": [[sys.executable, str(ROOT / "launch" / "export_hf.py"), str(source), str(work / "out")]]
    }
    if args.config:
        commands["export_hf.py"][0] += ["--config", str(args.config.resolve())]
    found = importlib.util.find_spec("deepspeed")
    if is_deepspeed and not args.alone and found and found.submodule_search_locations:
        script = work / "zero_to_fp32.py"  # as the engine leaves a copy in every checkpoint; beside its siblings it imports them
        shutil.copy(Path(next(iter(found.submodule_search_locations))) / "utils" / script.name, script)
        (work / "cast").mkdir()
        commands["zero_to_fp32.py + cast"] = [
            [sys.executable, str(script), str(source), str(work / "fp32"), "--safe_serialization"],
            [*shared, CAST, str(work / "fp32"), str(work / "cast")],
        ]
    if not is_deepspeed and not args.alone:
        copy = f"mkdir {work}/copy && cp {source}/*.safetensors {work}/copy && sync {work}/copy/*"
        commands["cp + sync"] = [["sh", "-c", copy]]
    for _ in range(args.repeats):
        rates["read"].append(_read_rate(files, args.warm))
        rates["write"].append(_write_rate(work / "plain", min(write_bytes, 2 << 30)))
        for label, steps in commands.items():
            for left in ("out", "fp32", "copy"):
                shutil.rmtree(work / left, ignore_errors=True)
            if not args.warm:
                _forget(files)
            os.sync()
            figures = [_timed(step) for step in steps]
            seconds = sum(s for s, _ in figures)
            if label not in rows or seconds < rows[label]["seconds"]:
                rows[label] = {"what": label, "seconds": round(seconds, 2), "peak MB": round(max(m for _, m in figures) / 1e6)}
            if label == "export_hf.py" and len(commands) > 1 and is_deepspeed:
                os.rename(work / "out", work / f"out-{len(rates['read'])}")
    bound = read_bytes / max(rates["read"]) + write_bytes / max(rates["write"])
    base = rows["export_hf.py"]["seconds"]
    for row in rows.values():
        row |= {
            "GB/s out": round(write_bytes / 1e9 / row["seconds"], 3),
            "share of bound %": round(100 * bound / row["seconds"], 1),
            "ours is × as fast": round(row["seconds"] / base, 2),
        }
    result: dict[str, Any] = {
        "parameters": parameters,
        "bytes read": read_bytes,
        "bytes written": write_bytes,
        "page cache": "warm" if args.warm else "cold",
        "disk reads GB/s": round(max(rates["read"]) / 1e9, 2),
        "disk writes GB/s": round(max(rates["write"]) / 1e9, 2),
        "bound s (read, then write)": round(bound, 2),
    }
    if (work / "cast").is_dir():
        result["tensors bit-equal to zero_to_fp32 + cast"] = _same(work / "out-1", work / "cast")
    return result | {"rows": list(rows.values())}


def _timed(command: list[str]) -> tuple[float, int]:
    """Seconds and peak memory of a whole process."""
    done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], capture_output=True, text=True, cwd=ROOT)
    seconds, peak, code = json.loads(done.stdout.strip().splitlines()[-1])
    if code:
        raise BenchError(f"{' '.join(command[:3])}: exit {code}\n{done.stderr[-2000:]}")
    return seconds, peak


def _forget(files: list[Path]) -> None:
    """Drop files from the page cache."""
    for path in files:
        with path.open("rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_rate(files: list[Path], warm: bool) -> float:
    """Bytes a second of a plain read of the first 2 GiB."""
    if not warm:
        _forget(files)
    buffer, total, begun = bytearray(BLOCK), 0, time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as f:
            while total < 2 << 30 and (got := f.readinto(buffer)):
                total += got
    return total / (time.perf_counter() - begun)


def _write_rate(path: Path, nbytes: int) -> float:
    """Bytes a second of a plain write with a sync at the end."""
    block = os.urandom(1 << 20) * (BLOCK >> 20)
    begun = time.perf_counter()
    with path.open("wb", buffering=0) as f:
        for _ in range(max(1, nbytes // BLOCK)):
            f.write(block)
        os.fsync(f.fileno())
    rate = max(1, nbytes // BLOCK) * BLOCK / (time.perf_counter() - begun)
    path.unlink()
    return rate


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


# -- made checkpoints -----------------------------------------------------------------------------------------------


def make(folder: Path, parameters: int, kind: str) -> Path:
    """A Llama-like checkpoint of about so many parameters, of random values; DeepSpeed's as stage 3 leaves it on two ranks."""
    from train.model_files.shapes import described

    folder.mkdir(parents=True)
    vocabulary, layers = 32000, 24
    # 2 * vocabulary * h + layers * 12.25 * h^2 = parameters, h a multiple of 128
    a, b = layers * 12.25, 2 * vocabulary
    hidden = max(128, round((-b + math.sqrt(b * b + 4 * a * parameters)) / (2 * a) / 128) * 128)
    if parameters < 10e6:
        vocabulary, layers, hidden = 512, 2, 64
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4, "num_hidden_layers": layers, "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shapes = described(folder / "config.json").shapes
    (_make_ours if kind == "ours" else _make_deepspeed)(folder, shapes)
    return folder


def _make_ours(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    import torch

    from train.checkpoint import manifest
    from train.model_files.dtypes import BF16
    from train.model_files.writer import Writer
    from train.world.places import sha256

    block = torch.randn(BLOCK // 2, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    names = list(shapes)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]  # as two ranks write them
    files: dict[str, tuple[int, str]] = {}
    for i, half in enumerate(halves):
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        writer = Writer(folder / file, {n: (BF16, shapes[n]) for n in half})
        for name in half:
            count = math.prod(shapes[name])
            writer.stream(name, (block[: min(len(block), count - at)] for at in range(0, count, len(block))))
        files[file] = writer.close()
    index = {"metadata": {}, "weight_map": {n: f"model-{i + 1:05d}-of-00002.safetensors" for i, half in enumerate(halves) for n in half}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in folder.glob("*.json"):
        files[path.name] = (path.stat().st_size, sha256(path))
    manifest.write(folder, 1, files)


def _make_deepspeed(folder: Path, shapes: dict[str, tuple[int, ...]], ranks: int = 2) -> None:
    """Masters as they are; the moments, which no converter reads, are views of one number."""
    import torch

    tag = folder / "global_step1"
    tag.mkdir()
    (folder / "latest").write_text(tag.name)
    each = sum(-(-math.prod(shape) // ranks) for shape in shapes.values())
    block = torch.randn(BLOCK // 4, generator=torch.Generator().manual_seed(0))
    names = OrderedDict((n, torch.Size(s)) for n, s in shapes.items())
    scratch = folder / "scratch"
    for rank in range(ranks):
        flat = torch.from_file(str(scratch), shared=True, size=each)  # on disk: a rank's share may be more than memory
        for at in range(0, each, len(block)):
            flat[at : at + len(block)] = block[: min(len(block), each - at)] * (1 + rank / 8)
        moment = torch.zeros(1).expand(each)
        inner = {
            "state": {0: {"step": torch.tensor(1.0), "exp_avg": moment, "exp_avg_sq": moment}},
            "param_groups": [{"lr": 1e-4, "params": [0]}],
        }
        zero = {"zero_stage": 3, "loss_scaler": None, "partition_count": ranks, "optimizer_state_dict": inner, "fp32_flat_groups": [flat]}
        torch.save({"optimizer_state_dict": zero}, tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        state = {
            "module": OrderedDict((n, torch.empty(0, dtype=torch.bfloat16)) for n in shapes), "buffer_names": [], "optimizer": None,
            "param_shapes": [names], "frozen_param_shapes": None, "shared_params": {}, "frozen_param_fragments": None, "global_steps": 1,
            "dp_world_size": ranks, "mp_world_size": 1, "ds_version": "0.19.8",
        }  # fmt: skip
        torch.save(state, tag / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        del flat, zero, inner
        scratch.unlink()
