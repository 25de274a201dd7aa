"""The models that are compared: their words on the command line, checked before long work, loaded one after the other."""

from __future__ import annotations

import argparse
import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.files.atomic import write_fault
from train.evaluation.texts import EvaluationError
from train.world.file_lock import hold

if TYPE_CHECKING:
    from train.evaluation.loaded import Loaded
    from train.world.ranks import World

JOURNAL = "journal"  # in the folder of results
LOCK = ".evaluate.lock"


def add_model_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--model", nargs="+", action="extend", required=required, default=[], metavar="DIR",
        help="checkpoints, exports, any Hugging Face folders; the first is what the others are compared with",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="auto: the model's own on a GPU, fp32 on a CPU")
    parser.add_argument(
        "--bos", choices=("auto", "always", "never"), default="auto", help="begin-of-text token: auto, as the tokenizer does"
    )
    parser.add_argument("--batch-tokens", type=int, default=4096, metavar="N", help="tokens computed at once (default 4096)")


def check_models(args: argparse.Namespace) -> None:
    """What can be seen without loading. Raises ModelError, EvaluationError."""
    from train.evaluation.loaded import check_shape

    if twice := [word for word in args.model if args.model.count(word) > 1]:
        raise EvaluationError(f"--model {twice[0]}: named twice; a model cannot be compared with itself")
    if fault := write_fault(args.out / LOCK):
        raise EvaluationError(f"--out {args.out}: cannot be written ({fault}); give another folder")
    if args.batch_tokens < 1:
        raise EvaluationError(f"--batch-tokens {args.batch_tokens}: give a number above 0")
    for word in args.model:
        check_shape(Path(word))


@contextlib.contextmanager
def opened(word: str, args: argparse.Namespace, world: World, longest: int | None = None) -> Iterator[tuple[Loaded, dict[str, Any]]]:
    """A model on every rank, checked by rank 0 against its manifest, and the facts that decide about its numbers."""
    import torch

    from train.evaluation.loaded import Loaded, check_folder, fingerprint

    folder = Path(word)
    told: tuple[str, Exception | None] = ("", None)
    if world.rank == 0:
        with world.waiting(f"reading {word}"):
            try:
                check_folder(folder)
                told = (fingerprint(folder), None)
            except (ValueError, OSError) as error:
                told = ("", error)
    hash, fault = world.broadcast(told)
    if fault is not None:
        raise fault
    if world.device.type == "cpu" and not world.threads_set_by_user and world.size > 1:
        torch.set_num_threads(max(1, (torch.get_num_threads() or 1) // world.local_size))
    spread = world.size == 1 and torch.cuda.device_count() > 1
    with world.waiting(f"loading {word}"):
        model = Loaded.of(folder, word, None if spread else world.device, args.dtype, longest, args.batch_tokens)
    world.log0(f"{word}: {model.said}")
    facts = {"model": hash, "dtype": str(model.model.dtype), "device": world.device.type, "row_tokens": args.batch_tokens}
    try:
        yield model, facts
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextlib.contextmanager
def results_folder(out: Path, world: World) -> Iterator[Path]:
    """`--out`, made, and for one command at a time; the folder of journals in it. Raises EvaluationError on every rank."""
    held, fault = None, ""
    if world.rank == 0:
        try:
            held = hold(out / LOCK)
        except BlockingIOError as error:
            fault = f"--out {out}: {error.strerror} evaluates into it now; wait for it, or give another folder"
        except OSError as error:
            fault = f"--out {out}: cannot be written ({error.strerror}); give another folder"
    if fault := world.broadcast(fault):
        raise EvaluationError(fault)
    try:
        yield out / JOURNAL
    finally:
        if held is not None:
            held.close()
            with contextlib.suppress(OSError):
                out.rmdir()  # where nothing came of it


def write_json(path: Path, value: dict[str, Any]) -> None:
    import json

    from train.world.places import write_durably

    write_durably(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
