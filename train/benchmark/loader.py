"""The loader: microseconds a row, one process, tokens from shards to torch batches; and the time of a seek.

Writes shards of made tokens to a temporary folder, as papers (thousands of tokens) and as abstracts (hundreds), and reads an
epoch of them, its files in the page cache. Beside it the least any loader does: tokens and shifted labels from random places of one
memory map, without documents, positions or edges. The seek is a resume at 90 % of an epoch, planned from lengths alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.shards.reader import Shards
from data_tools.shards.writer import ShardWriter
from train.data.loader import Loader
from train.data.mixture import SourceSpec, generator
from train.data.plans import DataSettings

KINDS = {"papers": 4000, "abstracts": 330}  # mean tokens of a document
PASSES = 3  # over each epoch; the fastest counts, as the machine may have other work


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=float, default=24.6e6, help="tokens of each kind of made shards (default: 24.6e6)")
    parser.add_argument("--seq-len", type=int, default=2048, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--micro-batch", type=int, default=8, help="rows of a micro-batch (default: %(default)s)")
    parser.add_argument("--rows-per-step", type=int, default=64, help="rows of a step (default: %(default)s)")
    parser.add_argument("--seek-tokens", type=float, default=1e9, help="tokens of the epoch to seek in (default: 1e9)")
    parser.add_argument("--shards", type=Path, help="read these shards instead of made ones")


def run(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folders = (
            {args.shards.name: args.shards} if args.shards else {kind: _write(Path(folder) / kind, kind, args.tokens) for kind in KINDS}
        )
        for kind, path in folders.items():
            shards = Shards.open(path, verify="hash")
            rows += [_read(kind, shards, packing, args) for packing in ("split", "whole")]
            rows.append(_read_plainly(kind, shards, args))
    rows += [_seek(kind, packing, args) for kind in KINDS for packing in ("split", "whole")]
    return {"seq_len": args.seq_len, "micro_batch": args.micro_batch, "rows_per_step": args.rows_per_step, "rows": rows}


def _lengths(kind: str, tokens: float) -> np.ndarray:
    count = max(1, round(tokens / KINDS[kind]))
    return np.maximum(generator(0, kind).lognormal(np.log(KINDS[kind]) - 0.08, 0.4, count).astype(np.int64), 2)


def _write(folder: Path, kind: str, tokens: float) -> Path:
    writer = ShardWriter(folder, kind="corpus", vocab_size=32_000, tokenizer={"fingerprint": "made for a benchmark"})
    rng = generator(0, "tokens")
    for i, n in enumerate(_lengths(kind, tokens).tolist()):
        writer.add(f"{kind}-{i}", kind, rng.integers(0, 32_000, n, np.uint16))
    writer.finish()
    return folder


def _read(kind: str, shards: Shards, packing: str, args: argparse.Namespace) -> dict[str, Any]:
    """An epoch in the caller's thread: what a row costs, not what prefetch hides."""
    loader = Loader({kind: shards}, replace(_settings(kind, packing, args), micro_batch_rows=args.micro_batch, prefetch_steps=0))
    steps = max(1, loader.epoch_rows // args.rows_per_step)

    def epoch() -> None:
        for _ in range(steps):
            loader.next_step()

    seconds = _fastest(epoch)
    documents = len(loader.plans.rows(0).document) / loader.epoch_rows
    loader.close()
    return _row(f"{kind}, {packing}", seconds / (steps * args.rows_per_step), documents)


def _settings(kind: str, packing: str, args: argparse.Namespace) -> DataSettings:
    return DataSettings(specs=[SourceSpec(kind)], seq_len=args.seq_len, packing=packing, seed=0, rows_per_step=args.rows_per_step)


def _read_plainly(kind: str, shards: Shards, args: argparse.Namespace) -> dict[str, Any]:
    """Micro-batches of tokens and labels from one memory map."""
    import torch

    tokens = np.memmap(shards.folder / shards.manifest["shards"][0]["file"], np.uint16, "r")
    places = generator(0, "places").integers(0, len(tokens) - args.seq_len - 1, (500, args.micro_batch)).tolist()

    def epoch() -> None:
        for starts in places:
            for shift in (0, 1):
                torch.stack([torch.from_numpy(tokens[a + shift : a + shift + args.seq_len].astype(np.int64)) for a in starts])

    return _row(f"{kind}, plain memory map", _fastest(epoch) / (len(places) * args.micro_batch), None)


def _fastest(work: Callable[[], None]) -> np.ndarray:
    """(wall, processor) seconds, the least of each: on a machine with other work the second says more."""
    seconds = []
    for _ in range(PASSES):
        begun = time.perf_counter(), time.process_time()
        work()
        seconds.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return np.min(seconds, axis=0)


def _row(name: str, seconds: np.ndarray, documents: float | None) -> dict[str, Any]:
    wall, processor = (seconds * 1e6).tolist()
    return {"what": name, "us a row": wall, "processor us": processor, "segments a row": documents}


class _Lengths:
    """Shards of which only the lengths are there: all that a plan and a seek read."""

    has_mask = False
    fingerprint = "lengths only"

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths


def _seek(kind: str, packing: str, args: argparse.Namespace) -> dict[str, Any]:
    settings = _settings(kind, packing, args)
    shards = _Lengths(_lengths(kind, args.seek_tokens))
    saved = Loader({kind: shards}, settings)
    state = saved.state_dict() | {"next_row": int(0.9 * saved.epoch_rows)}
    saved.close()

    def resume() -> None:
        loader = Loader({kind: shards}, settings)
        loader.load_state_dict(state)
        loader.close()

    wall, processor = _fastest(resume).tolist()
    return {"what": f"seek to 90 % of {args.seek_tokens:.0e} tokens, {kind}, {packing}", "seconds": wall, "processor seconds": processor}
