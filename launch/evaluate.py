"""What a model can do, and whether it is better than another: `python launch/evaluate.py PART --model DIR … --data F --out DIR`."""

import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import importlib
import os

from data_tools.work.errors import message
from launch.measures.several import children, is_child
from train.world.launchers import WorldError
from train.world.output import hush, lasting

# each module has PURPOSE, EXAMPLE, `add_arguments(parser)`, `check(args)` without a model, and `run(args, world) -> lines to print`
PARTS = {
    "perplexity": "launch.measures.perplexity",
    "mcq": "launch.measures.mcq",
    "embedding": "launch.measures.embedding",
    "sweep": "launch.measures.sweep",
    "completion": "launch.measures.completion",
}
EPILOG = """One process computes on this machine's CPU, or on all its GPUs with the model spread over them; --processes N, or
deepspeed and torchrun before this command, give each process a model and a GPU of its own, and a share of the work. Given again
after a stop or a crash, the command goes on where it was. Exit codes: 0 done; 1 failed; 2 usage; 130 stopped by Ctrl-C.

example:
  {example}
"""
TOGETHER_SECONDS = 7 * 24 * 3600  # a rank that is done waits for the others; one that dies is noticed at once


def main(argv: list[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    if args.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    part = importlib.import_module(PARTS[args.measure])
    lines: list[str] = []
    try:
        if args.processes > 1 and os.environ.get("WORLD_SIZE", "1") != "1" and not is_child():
            raise WorldError(
                f"--processes {args.processes}: a launcher has started {os.environ['WORLD_SIZE']} processes already; leave it out"
            )
        with lasting():
            part.check(args)
            if args.processes > 1 and not is_child():
                return children(words, args.processes)
            lines = _measured(part, args)
    except (ValueError, OSError, RuntimeError) as error:
        if (said := message(error, args.out)) is None:
            raise
        rank = os.environ.get("RANK", "0")
        print(f"error: {said}" if rank == "0" else f"rank {rank}: error: {said}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr, flush=True)
        return 130
    with lasting():
        for line in lines:
            print(line, flush=True)
    return 0


def _measured(part: object, args: argparse.Namespace) -> list[str]:
    """The lines of rank 0; none on the others."""
    from train.world.ranks import World

    world = World.from_env()
    world.meet(TOGETHER_SECONDS)
    with world.waiting("importing transformers"):
        import transformers  # noqa: F401 - seconds that would pass in silence later
    hush()
    lines = part.run(args, world)
    world.barrier()
    return lines if world.rank == 0 else []


def _parser() -> argparse.ArgumentParser:
    first = PARTS["perplexity"]
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Measure what models can do on texts of yours, side by side, with intervals.",
        epilog=EPILOG.format(example=importlib.import_module(first).EXAMPLE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(dest="measure", required=True, metavar="PART")
    for name, module_name in PARTS.items():
        module = importlib.import_module(module_name)
        one = parts.add_parser(
            name,
            help=module.PURPOSE,
            description=f"{module.PURPOSE}.",
            epilog=EPILOG.format(example=module.EXAMPLE),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(one)
        one.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder for {name}.json and what belongs to it")
        one.add_argument("--processes", type=_processes, default=1, metavar="N", help="that many processes here, each with the model")
        one.add_argument("--local_rank", type=int, default=None, help=argparse.SUPPRESS)  # DeepSpeed's launcher gives it
    return parser


def _processes(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: give a number of processes, from 1 to 1024")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
