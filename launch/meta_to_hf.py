"""Meta's LLaMA-2 folder → a Hugging Face folder: `python launch/meta_to_hf.py META_DIR OUT [--dtype keep|bf16|fp16|fp32]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

EXAMPLE = """example:
  python launch/meta_to_hf.py llama/llama-2-7b models/llama-2-7b
  then model.path: models/llama-2-7b in a recipe
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Turn a folder as Meta publishes LLaMA-2 (params.json, consolidated.*.pth, tokenizer.model) into a Hugging Face folder;"
        " tensor by tensor, without running anything the files may hold.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the folder with params.json and consolidated.00.pth")
    parser.add_argument("out", type=Path, help="the folder to make; must not exist")
    parser.add_argument(
        "--dtype", choices=("keep", "bf16", "fp16", "fp32"), default="keep", help="of the weights written (default: as stored)"
    )
    parser.add_argument(
        "--tokenizer", type=Path, default=None, metavar="FILE", help="tokenizer.model, where it is not in or above the folder"
    )
    parser.add_argument(
        "--positions", type=int, default=4096, metavar="N", help="longest context the model was trained with (default: 4096)"
    )
    args = parser.parse_args(argv)
    if args.positions < 1:
        parser.error(f"--positions {args.positions}: must be at least 1")

    from tqdm import tqdm

    from train.foreign.meta.folder import MetaFolderError, convert
    from train.foreign.torch_save.file import TorchFileError
    from train.model_files.dtypes import OF_RECIPE
    from train.model_files.stream import ReadError

    dtype = None if args.dtype == "keep" else OF_RECIPE[args.dtype]
    begun = time.perf_counter()
    try:
        size = sum(p.stat().st_size for p in args.folder.glob("consolidated.*.pth"))
        with tqdm(total=size, unit="B", unit_scale=True, desc="convert", disable=not sys.stderr.isatty()) as bar:
            tensors, nbytes = convert(args.folder, args.out, dtype, args.tokenizer, args.positions, bar.update)
    except (MetaFolderError, TorchFileError, ReadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begun
    print(
        f"{args.out}: {tensors} tensors, {nbytes / 1e9:.2f} GB in {seconds:.1f} s ({nbytes / 1e9 / seconds:.2f} GB/s), config and tokenizer"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
