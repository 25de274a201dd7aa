"""A checkpoint → a Hugging Face folder: `python launch/export_hf.py CHECKPOINT OUT [--dtype bf16|fp32]`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.work.errors import message

if TYPE_CHECKING:
    from train.export.plan import Request

EXAMPLE = """A killed or interrupted export goes on when the same command is given again.

examples:
  python launch/export_hf.py runs/cpt_7b/checkpoints/step_003148 astro-llama-7b
  python launch/export_hf.py runs/cpt_7b/checkpoints/step_003148 astro-llama-7b --check
  python launch/export_hf.py runs/sft_7b/checkpoints/step_000654 astro-chat-7b --merge meta-llama-2-7b-chat:0.25
  python launch/export_hf.py s3://bucket/runs/cpt_7b/step_003148 astro-llama-7b
  python launch/export_hf.py runs/cpt_7b/checkpoints averaged-7b --average 2000 3000 3148
  python launch/export_hf.py runs/sft_70b_lora/checkpoints/step_000654 astro-chat-70b --merge-adapter
  python launch/export_hf.py hf-trainer-output/checkpoint-1200 model-7b --config Llama-2-7b-hf
"""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)

    from train.export import exporter as export
    from train.export import plan as export_plan
    from train.model_files.adapter import is_adapter
    from train.model_files.dtypes import OF_RECIPE

    as_they_are = is_adapter(args.checkpoint) and not args.merge_adapter  # small, and added to the base in fp32
    args.dtype = args.dtype or ("fp32" if as_they_are else "bf16")
    dtype = OF_RECIPE[args.dtype]
    request = export_plan.Request(
        checkpoint=args.checkpoint,
        out=args.out,
        dtype=dtype,
        config=args.config,
        tag=args.tag,
        merge=tuple(args.merge),
        average=tuple(args.average),
        license=args.license,
        merge_adapter=args.merge_adapter,
        base=args.base,
    )
    begun = time.perf_counter()
    try:
        said: list[str] = []
        judge = _judge(request, said) if args.check else lambda folder: None
        from tqdm import tqdm

        with tqdm(unit="B", unit_scale=True, desc="export", disable=not sys.stderr.isatty()) as bar:

            def progress(nbytes: int, of: int) -> None:
                bar.total = of
                bar.update(nbytes)

            made = export.export(request, progress, judge)
    except (ValueError, OSError) as error:
        if (said_of_it := message(error, args.out)) is None and not isinstance(error, OSError):
            raise
        print(f"error: {said_of_it or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on making {args.out}", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - begun
    for remark in made.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print("".join(f"{line}\n" for line in said), end="")
    rate = f"{made.bytes / 1e9:.2f} GB of {args.dtype} in {seconds:.1f} s ({made.bytes / 1e9 / seconds:.2f} GB/s)"
    kept = f"; {made.kept} files kept from before" if made.kept else ""
    print(f"{args.out}: {made.tensors} tensors of a {made.of}, {rate}{kept}; hashes in {args.out / 'export.json'}")
    return 0


def _judge(request: Request, said: list[str]) -> Callable[[Path], None]:
    """What --check does to the finished folder before it is published."""
    from train.export import logit_check

    probe = logit_check.probe_of(request)

    def judge(folder: Path) -> None:
        said.append(logit_check.compare(probe, folder))

    return judge


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Copy a checkpoint out as a Hugging Face model folder: weights, config, tokenizer, model card.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        type=_place,
        help="a folder like runs/NAME/checkpoints/step_000500, here or as s3://…; any Hugging Face folder, or one DeepSpeed saved",
    )
    parser.add_argument("out", type=Path, help="the folder to make; must not exist")
    parser.add_argument(
        "--dtype",
        choices=("bf16", "fp32"),
        default=None,
        help="fp32 takes the fp32 masters where the checkpoint has them (default: bf16; of an adapter's own folder fp32)",
    )
    parser.add_argument(
        "--config", type=Path, default=None, metavar="DIR", help="config and tokenizer from here, for a folder that has none"
    )
    parser.add_argument(
        "--tag", default=None, help="which save of a DeepSpeed folder, e.g. global_step1200 (default: the one in its `latest`)"
    )
    parser.add_argument(
        "--merge", type=_weighted, action="append", default=[], metavar="MODEL:WEIGHT",
        help="add this model with this weight; CHECKPOINT gets what is left of 1; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--average",
        type=int,
        nargs="+",
        default=[],
        metavar="STEP",
        help="the mean of these steps of CHECKPOINT's run, in fp32 where saved",
    )
    parser.add_argument(
        "--merge-adapter", action="store_true",
        help="CHECKPOINT is an adapter, of ours or of peft: write the model it makes of its base, added in fp32 and rounded once",
    )  # fmt: skip
    parser.add_argument(
        "--base", type=Path, default=None, metavar="DIR", help="where an adapter's base lies, if not where the adapter says"
    )
    parser.add_argument(
        "--license",
        metavar="ID",
        help="licence on the model card, e.g. llama2 or apache-2.0 (default: the base model's, where it is known)",
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the export's logits with those the training engine recorded; not made if they differ"
    )
    return parser


def _place(word: str) -> Path:
    from train.world.places import PlaceError, place

    try:
        return place(word)
    except PlaceError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _weighted(word: str) -> tuple[Path, float]:
    model, _, weight = word.rpartition(":")
    try:
        assert model
        return _place(model), float(weight)
    except (ValueError, AssertionError):
        raise argparse.ArgumentTypeError(f"{word!r}: give MODEL:WEIGHT, e.g. models/llama-2-7b-chat:0.25") from None


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is synced and closed; taking torch down costs a small export a tenth of its time
