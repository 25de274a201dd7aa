"""What a run says: one readable line for people, one JSON line for machines, TensorBoard's curves.

Every rate it prints is computed in rates.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from train.recipe.vocabulary import Logging
from train.run.rates import Flops, StepNumbers, rates
from train.run.trackers import Tracker
from train.world.machine import peak_memory_bytes
from train.world.ranks import World
from train.world.voice import Bar, readable_time

REWIND = '"event": "rewind"'  # in the line of one
HELDOUT = '"heldout/'  # in the line of an evaluation
ANSWERS = "answers.jsonl"  # a line a prompt and evaluation; of two for one step, the later counts


def lines(n: StepNumbers, total_steps: int, r: dict[str, Any], memory: int) -> list[str]:
    """The one readable line of a step, whole and then ever shorter, for narrow terminals."""
    begin = [f"step {n.step}/{total_steps}", *([f"SKIPPED, {n.why}"] if n.skipped else []), f"loss {n.loss:.4f}"]
    lr, norm, rate = f"lr {n.lr:.2e}", f"norm {n.grad_norm:.3f}", f"{r['tokens_per_second']:,.0f} tok/s"
    mfu = [f"MFU {100 * r['mfu']:.1f}%"] if r["mfu"] is not None else []
    rest = [f"mem {memory / 2**30:.2f} GiB", f"wait {100 * r['data_wait_share']:.0f}%"]
    eta = f"ETA {readable_time(r['eta_seconds'])}"
    sources = [" ".join(f"{k} {v:.3f}" for k, v in n.source_losses.items())] if len(n.source_losses) > 1 else []
    forms = [
        [*begin, lr, norm, rate, *mfu, *rest, eta, *sources], [*begin, lr, norm, rate, *mfu, *rest, eta], [*begin, lr, norm, rate, *mfu, eta],
        [*begin, norm, rate, eta], [*begin, rate, eta], [*begin, eta], begin,
    ]  # fmt: skip
    return ["  ".join(form) for form in forms]


class MetricsLog:
    """metrics.jsonl, TensorBoard and the progress bar of a run; writes on rank 0 only."""

    def __init__(
        self,
        folder: Path,
        world: World,
        flops: Flops,
        logging: Logging,
        total_steps: int,
        start_step: int,
        trackers: Sequence[Tracker] = (),
    ):
        self.world, self.flops, self.total_steps, self.every_steps = world, flops, total_steps, logging.every_steps
        self._seconds: list[float] = []
        self._last_step = start_step
        self._trackers: Sequence[Tracker] = ()
        self.taken_back: list[str] = []  # lines of steps that the last start or rewind will make again; on rank 0
        self._file: Any = None
        self._board: Any = None
        self._bar: Bar | None = None
        if world.rank != 0:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._curves = (
            folder / "metrics.jsonl",
            folder / "tensorboard" if logging.tensorboard and "tensorboard" in logging.to else None,
        )
        self._trackers = trackers
        self._open(start_step)
        self._bar = Bar("", total_steps, "step", start_step)

    def _open(self, step: int) -> None:
        """Both files, without what they hold of later steps: of a run that was killed, or went back."""
        self._close_files()
        self.taken_back = self.lines_after(step)
        _cut_after(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        if self._curves:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._curves), purge_step=step + 1 if self._curves.is_dir() else None)

    def lines_after(self, step: int) -> list[str]:
        """The lines of metrics.jsonl that going back to a step takes back; on rank 0."""
        return [text for text, at in _lines(self._path) if at > step] if self.world.rank == 0 else []

    def rewound(self, line: dict[str, Any]) -> None:
        """Go on from the step of a rewind's line."""
        if self.world.rank != 0:
            return
        self._open(line["step"])
        self._write(line)
        self._bar.advance(line["step"] - line["from_step"])
        self._tell_trackers(line)

    def rewinds(self, lines: Iterable[dict[str, Any]]) -> None:
        """Lines of the rewinds so far: one that was killed in it has not written its own."""
        if self.world.rank == 0:
            there = sum(REWIND in text for text, _ in _lines(self._path))
            lines = list(lines)
            for line in lines[there:]:
                self._write(line)
            for line in lines[-1:]:
                self._tell_trackers(line)

    def _tell_trackers(self, rewind: dict[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.rewound(rewind["rewind"])

    def step(self, n: StepNumbers) -> None:
        if self.world.rank != 0:
            return
        self._last_step = n.step
        self._seconds = (self._seconds + [n.seconds])[-20:]
        recent = sorted(self._seconds)[len(self._seconds) // 2]  # the median: the first step compiles and warms up
        r = rates(n, self.flops, self.total_steps - n.step, recent)
        memory = peak_memory_bytes(self.world.device)
        record = {
            "step": n.step, "loss": n.loss, "lr": n.lr, "grad_norm": n.grad_norm, "tokens": n.tokens, **{k: v for k, v in r.items() if v is not None},
            "supervised": n.supervised, "seconds": n.seconds, "memory_bytes": memory, "skipped": n.skipped,
            **({"why": n.why} if n.skipped else {}), **n.run, **{f"spike/{k}": v for k, v in n.deviations.items()},
            **{f"loss/{k}": v for k, v in n.source_losses.items()},
        }  # fmt: skip
        self.record(record)
        self._bar.advance(1)
        if n.step % self.every_steps == 0 or n.step == self.total_steps or n.skipped:
            self.world.log0(*lines(n, self.total_steps, r, memory))

    def heldout(self, step: int, tokens: int, scores: dict[str, Any]) -> None:
        if self.world.rank != 0 or not scores:
            return
        record: dict[str, Any] = {"step": step, "tokens": tokens}
        for name, score in scores.items():
            record |= {
                f"heldout/{name}/loss": score.loss,
                f"heldout/{name}/perplexity": score.perplexity,
                f"heldout/{name}/tokens": score.tokens,
            }
            record |= {} if score.error is None else {f"heldout/{name}/loss_error": score.error}
        self.record(record)
        self.world.log0(
            f"step {step}  held-out perplexity: "
            + "  ".join(f"{name} {s.perplexity:.3f} ({s.tokens:,} tokens)" for name, s in scores.items())
        )

    def answers(self, step: int, answers: dict[str, str]) -> None:
        for prompt, answer in answers.items():
            self.world.log0(f"step {step}  {prompt!r} → {answer!r}")
            if self._board is not None:
                self._board.add_text(f"answers/{prompt[:60]}", answer, step)
        if answers and self.world.rank == 0:
            with self._path.with_name(ANSWERS).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": step, "prompt": p, "answer": a}, ensure_ascii=False) + "\n" for p, a in answers.items())

    def record(self, record: dict[str, Any]) -> None:
        """One JSON line, and a curve for every number in it; non-finite numbers are written as null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._write(clean)
        numbers = {
            key if "/" in key else f"train/{key}": float(value)
            for key, value in clean.items()
            if key != "step" and isinstance(value, (int, float))
        }
        for tracker in self._trackers:
            tracker.log(record["step"], numbers)
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(key, value, record["step"])

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self, failed: bool = False) -> None:
        how = "failed" if failed else "finished" if self._last_step >= self.total_steps else "stopped"
        self._close_files()
        if self._bar is not None:
            self._bar.close()
        for tracker in self._trackers:
            tracker.end(how)
        for tracker in self._trackers:
            tracker.close()

    def _close_files(self) -> None:
        for part in (self._file, self._board):
            if part is not None:
                part.close()


def _lines(path: Path) -> list[tuple[str, int]]:
    """The whole lines of a metrics.jsonl and their steps; a half-written last one is none."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append((text, int(json.loads(text)["step"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def heldout_before(folder: Path) -> dict[str, float]:
    """Held-out losses before step 1, by source, as metrics.jsonl has them; empty where it does not."""
    found: dict[str, float] = {}
    for text, at in _lines(folder / "metrics.jsonl"):
        if at == 0 and HELDOUT in text:
            line = json.loads(text)
            found |= {
                key[8:-5]: line[key] for key in line if key.startswith("heldout/") and key.endswith("/loss") and line[key] is not None
            }
    return found


def _cut_after(path: Path, step: int) -> None:
    """Drop lines of steps beyond the one gone on from: the run will write them again. What a rewind decided stays."""
    if not path.is_file():
        return
    kept = [text for text, at in _lines(path) if at <= step or REWIND in text]
    tmp = path.with_suffix(".tmp")
    tmp.write_text("".join(t + "\n" for t in kept), encoding="utf-8")
    tmp.replace(path)
