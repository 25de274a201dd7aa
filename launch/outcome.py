"""How a run ended, whatever its launcher said: `python launch/outcome.py RECIPE.yaml [key=value …]`; the exit code is the run's own."""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.guard import outcome
from train.recipe.load import load
from train.recipe.vocabulary import RecipeError

EPILOG = """exit codes: the run's own (0 finished; 10 ended by a rule of its recipe; 75 preempted: give the same command again; other: failed); 3: it trains still, or died
without a word; 4: nothing is known of it; 2 usage. With --launcher CODE: the code that the launcher should have given.

example:
  start=$(date +%s); deepspeed launch/pretrain.py R.yaml name=x; code=$?
  python launch/outcome.py R.yaml name=x --since $start --launcher $code; exit $?
"""
RUNNING, UNKNOWN = 3, 4


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="how a run ended, from runs/NAME/outcome.json", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="the recipe the run was started with, or its folder runs/NAME")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="the words it was started with")
    parser.add_argument("--since", type=float, default=0.0, metavar="EPOCH", help="when the launcher was started: older ends do not count")
    parser.add_argument("--launcher", type=int, metavar="CODE", help="what the launcher ended with")
    parser.add_argument("--resume", help=argparse.SUPPRESS)  # the training command's own option may stand among the words
    args = parser.parse_intermixed_args(argv)
    try:
        folder = Path(args.recipe)
        run_dir = folder if folder.is_dir() else load(args.recipe, args.overrides).run_dir
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    found = outcome.read(run_dir)
    if found and found.started < args.since - outcome.CLOCKS_SECONDS:
        found = None
    if found is None:
        print(f"{run_dir}: no word of {'this attempt' if args.since else 'a run'}", file=sys.stderr)
    else:
        where = f"; checkpoint {found.checkpoint}" if found.checkpoint else ""
        cause = f" ({found.cause})" if found.cause else ""
        print(f"{run_dir}: attempt {found.attempt} {found.ended} at step {found.step}{cause}{where}")
    if args.launcher is not None:
        return outcome.true_code(found, args.launcher, args.since)
    return UNKNOWN if found is None else RUNNING if found.exit_code is None else found.exit_code


if __name__ == "__main__":
    sys.exit(main())
