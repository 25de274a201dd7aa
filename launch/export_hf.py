"""A checkpoint → a Hugging Face folder: `python launch/export_hf.py CHECKPOINT OUT [--dtype bf16|fp32]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

EXAMPLE = """example:
  python launch/export_hf.py runs/cpt_7b/checkpoints/step_005000 astro-llama-7b --dtype bf16
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Copy a checkpoint out as a Hugging Face model folder: weights, config, tokenizer, model card.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a folder like runs/NAME/checkpoints/step_000500, or any Hugging Face folder")
    parser.add_argument("out", type=Path, help="the folder to make; must not exist")
    parser.add_argument(
        "--dtype",
        choices=("bf16", "fp32"),
        default="bf16",
        help="fp32 takes the fp32 masters where the checkpoint has them (default: bf16)",
    )
    parser.add_argument(
        "--config", type=Path, default=None, metavar="DIR", help="config and tokenizer from here, for a folder that has none"
    )
    args = parser.parse_args(argv)

    import torch
    from tqdm import tqdm

    from train import export
    from train.safetensors_io import SafetensorsError
    from train.weights import WeightsError

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[args.dtype]
    begun = time.perf_counter()
    try:
        tensors = export.tensors_of(args.checkpoint, dtype)
        total = sum(torch.Size(t.shape).numel() for t in tensors.values()) * dtype.itemsize
        with tqdm(total=total, unit="B", unit_scale=True, desc="export", disable=not sys.stderr.isatty()) as bar:
            export.write_model(
                tensors, args.out, dtype, args.config or args.checkpoint, export.model_card(args.checkpoint, dtype), bar.update
            )
    except (export.ExportError, WeightsError, SafetensorsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begun
    print(f"{args.out}: {len(tensors)} tensors, {total / 1e9:.2f} GB of {args.dtype} in {seconds:.1f} s ({total / 1e9 / seconds:.2f} GB/s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
