"""A model → a folder to publish, with its card and licence, and from there to the Hugging Face Hub: `python launch/publish.py MODEL OUT`."""

import argparse
import os
import shlex
import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

EPILOG = """--push lists what would go to the Hub and what is still missing; with --yes it goes. Broken off, the same command goes on. Who you are is
known to the Hub's own client (hf auth login, or HF_TOKEN in the environment); no token stands on a command line.

examples:
  python launch/publish.py runs/cpt_7b/checkpoints/step_003148 release/astro-llama-7b
  python launch/publish.py astro-llama-7b release/astro-llama-7b --results eval --license-file Llama-2-7b-hf/LICENSE.txt
  python launch/publish.py astro-llama-7b release/astro-llama-7b --push my-org/astro-llama-7b          # what would go
  python launch/publish.py astro-llama-7b release/astro-llama-7b --push my-org/astro-llama-7b --yes    # goes
"""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)

    from data_tools.work.errors import message
    from train.export import release
    from train.export.card import Release
    from train.export.plan import Request
    from train.model_files.adapter import is_adapter
    from train.model_files.dtypes import OF_RECIPE
    from train.world.redact import redacted

    words = ["python", "launch/publish.py", *(sys.argv[1:] if argv is None else argv)]
    made_by = Release(args.name or args.out.resolve().name, redacted(shlex.join(words)), tuple(args.license_file))
    request = Request(
        checkpoint=args.model, out=args.out, dtype=OF_RECIPE[args.dtype or ("fp32" if is_adapter(args.model) else "bf16")], config=args.config, license=args.license, results=tuple(args.results), release=made_by
    )  # fmt: skip
    try:
        if absent := [path for path in (*args.license_file, *args.results) if not path.exists()]:
            raise release.ExportError(f"{absent[0]}: no such file or folder; give one that is there")
        from tqdm import tqdm

        with tqdm(unit="B", unit_scale=True, desc="release", disable=not sys.stderr.isatty()) as bar:

            def progress(nbytes: int, of: int) -> None:
                bar.total = of
                bar.update(nbytes)

            made = release.make(request, progress)
        missing = release.missing(request, args.push or made_by.name)
        for line in missing:
            print(f"warning: before it may be published: {line}", file=sys.stderr)
        print(f"{args.out}: {made}; card in {args.out / 'README.md'}", flush=True)
        return _push(args, missing) if args.push else 0
    except (ValueError, OSError) as error:
        if (said := message(error, args.out)) is None and not isinstance(error, OSError):
            raise
        print(f"error: {redacted(said or str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _push(args: argparse.Namespace, missing: list[str]) -> int:
    from train.export import hub

    found = hub.pieces(args.out)
    if not args.yes:
        print(f"would go to {args.push}{' (private)' if args.private else ''}:")
        print("".join(f"  {piece.bytes:>15,}  {piece.name}\n" for piece in found), end="")
        print(f"{len(found)} files, {sum(piece.bytes for piece in found):,} bytes; nothing was sent. --yes sends it")
        return 0
    if missing:
        raise hub.HubError(f"--push {args.push}: not sent:\n" + "\n".join(f"  - {line}" for line in missing))
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise hub.HubError(f"--push needs {error.name}: pip install huggingface_hub") from None
    if not get_token():
        raise hub.HubError(f"--push {args.push}: nobody is logged in; hf auth login, or set HF_TOKEN in the environment")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    address = hub.push(args.out, args.push, args.private, HfApi(), lambda words: print(words, flush=True))
    print(f"{address}: {len(found)} files, {sum(piece.bytes for piece in found):,} bytes")
    return 0


def _parser() -> argparse.ArgumentParser:
    from train.world.places import PlaceError, place

    def somewhere(word: str) -> Path:
        try:
            return place(word)
        except PlaceError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=somewhere, help="a checkpoint, runs/NAME/checkpoints/step_000500, or any Hugging Face model folder")
    add("out", type=Path, help="the folder to make; one that the same command has made is gone on with")
    add("--name", help="of the model, on its card (default: that of OUT)")
    add("--dtype", choices=("bf16", "fp32"), default=None, help="of the weights (default: bf16; of an adapter fp32)")
    add("--config", type=Path, metavar="DIR", help="config and tokenizer from here, for a folder that has none")
    add("--license", metavar="ID", help="licence on the card, e.g. llama2 or apache-2.0 (default: the base model's, where it is known)")
    add(
        "--license-file",
        type=Path,
        action="append",
        default=[],
        metavar="F",
        help="a text of the licence that must go along; several times",
    )
    add(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="evaluations of MODEL, beside those of its run; several times",
    )
    add("--push", metavar="ORG/NAME", help="to the Hugging Face Hub: lists what would go")
    add("--yes", action="store_true", help="with --push: send it")
    add("--private", action="store_true", help="with --push: a new repository is seen by you alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
