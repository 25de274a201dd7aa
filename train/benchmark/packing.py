"""Packing: seconds and fill of our plans beside other packers, on made or real document lengths.

The made lengths are lognormal with the mean of a chat mixture, 654 tokens; --shards takes those of real shards. Documents
longer than a row are cut beforehand, alike for all. Packers of other projects are measured when they are installed; axolotl's, which
wants an environment of its own, in the Python of one: --axolotl PYTHON. The last row of ours is all that a run does for an epoch: the
order of its documents, the rows, their digest. Memory is this process's own at its most, the lengths with it.
"""

import argparse
import bisect
import importlib.util
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from train.benchmark.ranks import BenchError, Watch, give_back
from train.data.mixture import SourceSpec, epoch_documents, generator
from train.data.packing import AT_ONCE, plan_split, plan_whole

MEAN_TOKENS, SIGMA = 654, 0.9
MANY = 2_000_000  # documents, above which packers in plain Python are left out
# what MultipackBatchSampler does with its defaults; the package's own file, without its trainer
AXOLOTL = """
import importlib.metadata, importlib.util, json, sys, time, types, warnings
from pathlib import Path
import numpy as np
warnings.filterwarnings("ignore")
for name in ("axolotl.utils.distributed", "axolotl.utils.logging"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["axolotl.utils.distributed"].reduce_and_broadcast = None
sys.modules["axolotl.utils.logging"].get_logger = __import__("logging").getLogger
[package] = importlib.util.find_spec("axolotl").submodule_search_locations
spec = importlib.util.spec_from_file_location("multipack", Path(package) / "utils/samplers/multipack.py")
multipack = importlib.util.module_from_spec(spec)
sys.modules["multipack"] = multipack
spec.loader.exec_module(multipack)
lengths, seq_len = np.load(sys.argv[1]).astype(np.int64), int(sys.argv[2])
def pack():
    return multipack.pack_parallel(lengths, bin_capacity=seq_len, group_size=100_000, bin_size=200)
multipack.pack_parallel(lengths[:1000], seq_len, 100_000, 200, num_processes=1)  # numba compiles
seconds = []
for _ in range(int(sys.argv[3])):
    begun = time.perf_counter()
    rows = pack()
    seconds.append(time.perf_counter() - begun)
print(json.dumps([len(rows), min(seconds), importlib.metadata.version("axolotl")]))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=500_000, help="how many lengths to make (default: %(default)s)")
    parser.add_argument("--seq-len", type=int, default=4096, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--shards", type=Path, help="take the lengths of these shards instead")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each packer, the fastest counts (default: %(default)s)")
    parser.add_argument("--axolotl", metavar="PYTHON", help="the Python of an environment with axolotl and numba")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Raises BenchError when the other environment does not give its packer."""
    lengths = _lengths(args)
    seq_len, few = args.seq_len, len(lengths) <= MANY
    tokens = int(lengths.sum())
    packers: dict[str, Callable[[], int]] = {
        "ours, split": lambda: len(plan_split(lengths, seq_len, generator(0))),
        "ours, whole": lambda: len(plan_whole(lengths, seq_len, generator(0))),
        "ours, whole, an epoch as a run plans it": lambda: _epoch(lengths, seq_len),
    }
    pieces = _cut(lengths, seq_len) if few or args.axolotl else None
    if few:
        packers |= {
            "next-fit in order": lambda: _next_fit(pieces.tolist(), seq_len),
            "best-fit decreasing, one by one": lambda: _best_fit_decreasing(pieces.tolist(), seq_len),
        } | _installed(pieces, seq_len)
    found = {}
    for name, pack in packers.items():
        give_back()
        with Watch() as memory:
            found[name] = [*_fastest(pack, args.repeats), memory.peak / 2**30]
    if args.axolotl:
        count, seconds, version = _axolotl(args.axolotl, pieces, args)
        found[f"axolotl {version} multipack"] = [count, seconds, None]
    rows = [
        {"packer": name, "seconds": seconds, "fill %": round(100 * tokens / (count * seq_len), 4), "rows": count, "memory GiB": memory}
        for name, (count, seconds, memory) in found.items()
    ]
    result: dict[str, Any] = {"documents": len(lengths), "tokens": tokens, "seq_len": seq_len}
    if not few:
        result["left out"] = f"packers in plain Python, above {MANY:,} documents"
    if args.axolotl:
        result["ours, whole / axolotl"] = f"{rows[-1]['seconds'] / rows[1]['seconds']:.1f} x as fast"
    whole = rows[1] if few else rows[2]
    beside = f"; {result['ours, whole / axolotl']} as axolotl's ({rows[-1]['fill %']:.2f}%)" if args.axolotl else ""
    said = f"{len(lengths):,} documents at {seq_len:,}: {whole['seconds']:.3g} s, {whole['fill %']}% full, {whole['memory GiB']:.2f} GiB"
    return result | {"figure": said + beside, "rows": rows}


def _lengths(args: argparse.Namespace) -> np.ndarray:
    if args.shards:
        from data_tools.shards.reader import Shards

        return Shards.open(args.shards, verify="size").lengths
    rng, made = generator(0, "lengths"), np.empty(args.documents, np.int32)
    for at in range(0, args.documents, AT_ONCE):
        part = made[at : at + AT_ONCE]
        part[:] = np.maximum(rng.lognormal(np.log(MEAN_TOKENS) - SIGMA**2 / 2, SIGMA, len(part)).astype(np.int64), 2)
    return made


def _epoch(lengths: np.ndarray, seq_len: int) -> int:
    order = epoch_documents([lengths], [SourceSpec("made")], 0, 0)
    rows = plan_whole(lengths, seq_len, generator(0), order=order)
    rows.digest()
    return len(rows)


def _axolotl(python: str, pieces: np.ndarray, args: argparse.Namespace) -> tuple[int, float, str]:
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/lengths.npy", pieces)
        command = [python, "-c", AXOLOTL, f"{folder}/lengths.npy", str(args.seq_len), str(args.repeats)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"--axolotl {python}: {done.stderr.strip().splitlines()[-1]}; give a Python that has axolotl, numba and torch")
    return json.loads(done.stdout.splitlines()[-1])


def _cut(lengths: np.ndarray, seq_len: int) -> np.ndarray:
    whole, rest = lengths // seq_len, lengths % seq_len
    return np.concatenate([np.repeat(seq_len, whole.sum()), rest[rest > 0]])


def _fastest(pack: Callable[[], int], repeats: int) -> tuple[int, float]:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        count = pack()
        seconds.append(time.perf_counter() - begun)
    return count, min(seconds)


def _next_fit(lengths: list[int], seq_len: int) -> int:
    """A new row whenever the next document does not fit."""
    count, room = 0, 0
    for n in lengths:
        if n > room:
            count, room = count + 1, seq_len
        room -= n
    return count


def _best_fit_decreasing(lengths: list[int], seq_len: int) -> int:
    """The textbook's rule, with the rooms that occur kept sorted."""
    rooms: list[int] = []
    rows_with = [0] * (seq_len + 1)
    count = 0
    for n in sorted(lengths, reverse=True):
        at = bisect.bisect_left(rooms, n)
        room = rooms[at] if at < len(rooms) else seq_len
        if at == len(rooms):
            count += 1
        else:
            rows_with[room] -= 1
            if not rows_with[room]:
                del rooms[at]
        left = room - n
        if left:
            rows_with[left] += 1
            if rows_with[left] == 1:
                bisect.insort(rooms, left)
    return count


def _installed(lengths: np.ndarray, seq_len: int) -> dict[str, Callable[[], int]]:
    """Packers of other projects that can be imported here."""
    found: dict[str, Callable[[], int]] = {}
    if importlib.util.find_spec("trl"):
        import datasets
        from trl import pack_dataset

        table = datasets.Dataset.from_dict({"input_ids": [np.zeros(n, np.int32) for n in lengths]}).with_format("arrow")
        found["TRL bfd (moves the tokens too)"] = lambda: len(pack_dataset(table, seq_len, "bfd", map_kwargs={"batch_size": len(table)}))
    return found
