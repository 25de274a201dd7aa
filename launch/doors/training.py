"""What the training doors share: arguments, one message for a user's mistake, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.work.errors import message
from train.guard.outcome import PREEMPTED, RULED
from train.guard.signals import Stops
from train.world.launchers import WorldError, place_of
from train.world.output import hush, lasting
from train.world.voice import waiting

if TYPE_CHECKING:
    from train.recipe.vocabulary import Recipe

MOST_RANKS = 1_000_000
PAGE_SECONDS = 120.0  # more than a page takes on a busy disk
EPILOG = """exit codes: 0 finished; 10 ended by heldout.stop_if, saved; 75 stopped by a signal or a time limit (give the same command again); 130 a second Ctrl-C; 1 failed; 2 usage.

example:
  {example}
"""


def train_door(purpose: str, example: str, argv: list[str] | None, check: Callable | None = None) -> int:
    """Parse, train, exit.

    Args:
        check: called with the recipe before anything starts; returns warnings to print.
    """
    parser = argparse.ArgumentParser(
        description=purpose, epilog=EPILOG.format(example=example), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="a YAML file, or the name of one of launch/recipes, e.g. cpt_7b")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="recipe values to replace, e.g. optim.lr=1e-5 tokens=2e9"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and print every derived number; starts nothing")
    parser.add_argument("--gpus", type=_ranks, default=None, help="with --dry-run: ranks to derive for (default: WORLD_SIZE, else 1)")
    parser.add_argument(
        "--gpu-memory",
        type=_gpu_bytes,
        metavar="GIB|NAME",
        help="with --dry-run: memory of a GPU there, e.g. 80 or H100: does the run fit?",
    )
    parser.add_argument(
        "--elsewhere",
        action="store_true",
        help="with --dry-run: the run will start on another machine; this one's disk and packages are not judged (--gpu-memory implies it)",
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="with --dry-run: what the ranks run on (default: what the DeepSpeed JSON is meant for)"
    )
    parser.add_argument(
        "--resume", default="auto", metavar="auto|never|PATH", help="which checkpoint to go on from (default: the newest that verifies)"
    )
    parser.add_argument(
        "--keys",
        nargs="?",
        const="",
        action=_Keys,
        metavar="WORD",
        help="all keys of a recipe; with a WORD: those that have it in their name",
    )
    parser.add_argument("--local_rank", type=int, default=None, help=argparse.SUPPRESS)  # DeepSpeed's launcher gives it
    args = parser.parse_intermixed_args(argv)  # options may stand between key=value words
    if args.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if not args.dry_run and (args.gpus is not None or args.device or args.gpu_memory or args.elsewhere):
        parser.error(
            "--gpus, --gpu-memory, --device and --elsewhere go with --dry-run; the launcher says how many ranks train, and on what"
        )

    rank = _rank()
    stops = None
    if not args.dry_run:
        stops = Stops(rank)
        stops.listen()  # to this process's very end: when one rank has left, launchers signal the others
    with lasting():
        return _guarded(args, check, rank, stops)


class _Keys(argparse.Action):
    """Ends the command, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, values: str, option: str | None = None) -> None:
        from train.recipe import reference

        text = reference.as_page() if values == "page" else reference.as_text(values)
        print(text or f"no key has {values!r} in its name; --keys alone shows all")
        parser.exit(0 if text else 2)


def _rank() -> int:
    """This process's number as its launcher says; 0 where the launchers contradict each other, which `World.from_env` names."""
    try:
        return place_of(os.environ).rank
    except WorldError:
        return 0


def _ranks(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= MOST_RANKS:
        raise argparse.ArgumentTypeError(f"{text}: give the number of GPUs, from 1 to {MOST_RANKS:,}")
    return int(text)


def _gpu_bytes(text: str) -> float:
    from train.world.machine import DEVICE_GIB

    named = (
        next((gib for part, gib in DEVICE_GIB.items() if part in text.upper()), None)
        if not text.replace(".", "").isdigit()
        else float(text)
    )
    if not named:
        raise argparse.ArgumentTypeError(f"{text}: give GiB, or one of {', '.join(DEVICE_GIB)}")
    return named * 2**30


def _guarded(args: argparse.Namespace, check: Callable | None, rank: int, stops: Stops | None) -> int:
    try:
        with stops.not_hidden() if stops else contextlib.nullcontext():
            return _open(args, check, rank, stops)
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        if getattr(error, "reported", False):  # by the watchers, once for all ranks
            return 1
        if (said := message(error)) is None:
            raise
        return _complain(said, rank)


def _open(args: argparse.Namespace, check: Callable | None, rank: int, stops: Stops | None) -> int:
    from train.recipe.load import load

    written = load(args.recipe, args.overrides)
    recipe, said = _settled(written, args)
    if said and rank == 0:
        print(said, file=sys.stdout if args.dry_run else sys.stderr, flush=True)
    for warning in check(recipe) if check else []:
        if rank == 0:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
    if args.dry_run:
        from train.checkpoint.find import named_faults
        from train.preflight.dry_run import Asked, explain

        explained = explain(
            recipe,
            Asked(
                ranks=args.gpus or place_of({"RANK": "0", "WORLD_SIZE": os.environ.get("WORLD_SIZE", "1")}).size,
                device=args.device,
                gpu_bytes=args.gpu_memory,
                elsewhere=args.elsewhere or args.gpu_memory is not None,
            ),
        )
        print(explained.text)
        faults = [*explained.faults, *named_faults(args.resume)]
        print("".join(f"error: {fault}\n" for fault in faults), end="", file=sys.stderr)
        return 1 if faults else 0

    hush()
    with waiting("starting: importing PyTorch") if rank == 0 else contextlib.nullcontext():
        from train.guard.watch.heartbeat import watched
        from train.run.loop import run
        from train.world.ranks import World

    world = World.from_env()

    world.connect(recipe.guard.timeout_seconds)
    stops.join(world)
    guard = recipe.guard
    with (
        stops.not_hidden(),
        watched(world, recipe.run_dir, guard.hang_seconds, guard.timeout_seconds, partial(message, place=recipe.run_dir)),
    ):
        outcome = run(recipe, world, args.resume, stops)
    if (outcome.finished or outcome.rule) and world.rank == 0:
        _write_page(recipe.run_dir)
    world.log0(outcome.said)  # last: what was made, and where
    return 0 if outcome.finished else RULED if outcome.rule else PREEMPTED


def _write_page(run: Path) -> None:
    """The run's page, by a process of its own: a run that has ended well has done so, whatever becomes of its page."""
    from train.world.voice import say

    command = [sys.executable, str(Path(__file__).resolve().parents[1] / "report.py"), str(run)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=PAGE_SECONDS)
        made, words = done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        made, words = False, [str(error)]
    said = words[-1] if words else "it said nothing"
    say(f"page: {said}" if made else f"page: not made ({said}); python launch/report.py {run} makes it")


def _settled(recipe: Recipe, args: argparse.Namespace) -> tuple[Recipe, str]:
    """A dry run goes on without shards that are not here yet, and says so."""
    from train.preflight.epochs import settled

    if args.dry_run and not all(source.path.exists() for source in recipe.data.sources.values()):
        return recipe, ""
    return settled(recipe, args.recipe)


def _complain(said: str, rank: int) -> int:
    """One message from one rank: the others give rank 0, and the launcher that ends them, a head start."""
    if rank != 0:
        time.sleep(5)
    prefix = f"rank {rank}: " if rank else ""
    print(f"{prefix}{said}", file=sys.stderr, flush=True)
    return 1
