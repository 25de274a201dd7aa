"""How fast a recipe will be on a cluster, whether it fits, what it costs: before anything is rented, by arithmetic alone."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.files.atomic import write_fault
from data_tools.work.errors import message
from train.world.output import lasting

EPILOG = """exit codes: 0 planned, whether it fits or not; 1 something is wrong; 2 usage.

examples:
  python launch/plan.py launch/recipes/cpt_70b.yaml --gpus 64 --gpu-type H100 --network 3200
  python launch/plan.py launch/recipes/cpt_7b.yaml --gpus 8 --gpu-type A100 --search
  python launch/plan.py launch/recipes/cpt_7b.yaml --gpus 8 --gpu-type A100 --measured train.json     # of benchmark.py train
  python launch/plan.py --table rows.csv --out predicted.csv
"""


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_intermixed_args(argv)  # options may stand between key=value words
    if args.calibrate:
        from train.preflight.planner.calibrate import main as calibrate

        return calibrate([])
    if bool(args.table) != bool(args.out):
        parser.error("--table and --out go together")
    if not args.table and not args.recipe:
        parser.error("give a recipe, or --table F.csv --out G.csv")
    if not args.table and not (args.gpus and args.gpu_type):
        parser.error("give --gpus N and --gpu-type NAME")
    try:
        with lasting():
            return _table(args) if args.table else _plan(args)
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        if (said := message(error, args.out or "")) is None:
            raise
        print(said if said.startswith("error") else f"error: {said}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="how fast a recipe will be on a cluster, whether it fits, what it costs", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", nargs="?", help="a YAML file, or the name of one of launch/recipes, e.g. cpt_7b")
    add("overrides", nargs="*", default=[], metavar="key=value", help="recipe values to replace")
    add("--gpus", type=_count, metavar="N", help="GPUs in all; with --gpu-type cpu: ranks")
    add("--gpu-type", metavar="NAME", help="A100, A100-40, H100, H200, B200, L40S, MI300X, V100, …, or cpu")
    add("--gpu-memory", type=_positive, metavar="GIB", help="of a GPU (default: its type's)")
    add("--nodes", type=_count, metavar="M", help="nodes they are on (default: 8 GPUs a node)")
    add("--network", type=_positive, metavar="GBPS", help="gigabits a second of a node's network (default: usual for the type)")
    add("--host-memory", type=_positive, metavar="GIB", help="main memory of a node: judged too")
    add("--price", type=_positive, metavar="DOLLARS", help="of an hour of a GPU (default: what clouds ask for the type)")
    add("--disk", type=_positive, default=2.0, metavar="GB/S", help="what all nodes together write to the checkpoints' disk (default: 2)")
    add("--failure-hours", type=_positive, metavar="H", help="hours between two failures of one GPU (default: 50,670, as Llama 3's)")
    add("--measured", type=Path, metavar="F", help="a result of `benchmark.py train --json F`: corrects the rate")
    add("--search", action="store_true", help="also propose the fastest settings that fit")
    add("--json", action="store_true", help="one JSON object instead of lines")
    add("--table", type=Path, metavar="F.csv", help="predict every row of a table of runs (columns: train/preflight/planner/published.py)")
    add("--out", type=Path, metavar="G.csv", help="where the table with predictions is written")
    add(
        "--calibrate",
        action="store_true",
        help="fit the constants to published figures again, and show how well those left out are predicted",
    )
    return parser


def _plan(args: argparse.Namespace) -> int:
    from train.preflight.planner import said
    from train.preflight.planner.clusters import GIB, HOURS_BETWEEN_FAILURES, cluster, gpu_named, with_memory
    from train.preflight.planner.forecast import Setting, attended, forecast
    from train.preflight.planner.measured import factor
    from train.preflight.planner.models import of_recipe
    from train.preflight.planner.search import search
    from train.recipe.load import load

    recipe = _settled(load(args.recipe, args.overrides), args.recipe)
    model = of_recipe(recipe)
    gpu = gpu_named(args.gpu_type)
    where = cluster(with_memory(gpu, args.gpu_memory) if args.gpu_memory else gpu, args.gpus, args.nodes, args.network)
    measured = factor(args.measured, recipe, model.sizes, gpu) if args.measured else 1.0
    setting = Setting(
        price=args.price, host=args.host_memory * GIB if args.host_memory else None, disk=args.disk * 1e9, measured=measured,
        failure_hours=args.failure_hours or HOURS_BETWEEN_FAILURES, attended=attended(recipe),
    )  # fmt: skip
    made = forecast(recipe, model, where, setting)
    found = search(recipe, model, where, setting) if args.search else []
    if args.json:
        settings = {"search": [{"words": f.words, **said.as_json(f.forecast)} for f in found[:10]]} if args.search else {}
        print(json.dumps({**said.as_json(made), "note": model.note, **settings}, indent=1))
        return 0
    print("\n".join([*([f"note: {model.note}"] if model.note else []), *said.memory_lines(made), *said.lines(made, bool(args.measured))]))
    if args.search:
        print("\n".join(["", *said.search_lines(found, recipe, where)]))
    return 0


def _settled(recipe, file: str):
    """A length in epochs as steps, where all its shards are here."""
    from train.preflight.epochs import settled

    if recipe.epochs is None or not all(source.path.exists() for source in recipe.data.sources.values()):
        return recipe
    return settled(recipe, file)[0]


def _table(args: argparse.Namespace) -> int:
    from train.preflight.planner.table import TableError, predicted

    if fault := write_fault(args.out) or ("" if args.out.absolute().parent.is_dir() else "no such folder"):
        raise TableError(f"--out {args.out}: cannot be written ({fault}); give another file")
    try:
        text = args.table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"--table {args.table}: cannot be read ({getattr(error, 'strerror', None) or error}); give a CSV file") from None
    made = predicted(text, str(args.table))
    aside = args.out.with_name(args.out.name + ".tmp")
    try:
        aside.write_text(made.text, encoding="utf-8")
        aside.replace(args.out)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
    if made.errors:
        sizes = sorted(abs(e) for e in made.errors)
        print(f"{len(sizes)} rows say their rate: mean error {sum(sizes) / len(sizes):.1%}, largest {sizes[-1]:.0%}")
    print(f"{made.predicted} rows predicted, {made.refused} not (predicted_note says why), written to {args.out}")
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 to 1,000,000")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
