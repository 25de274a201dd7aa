"""Starts a training command again for as long as that is worth it: `python launch/supervise.py -- deepspeed launch/pretrain.py …`."""

import argparse
import os
import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.guard.attempts import GRACE_SECONDS, Plan, Supervisor, say, script_at
from train.guard.briefly import briefly
from train.guard.hosts import Hosts, hostfile_of
from train.guard.supervise import Limits, env_file_faults, parse_hostfile
from train.recipe.load import load
from train.recipe.vocabulary import Recipe, RecipeError

EPILOG = """what is started again: a run that was preempted, failed or lost a rank, and then goes on from its newest checkpoint. What is not: a
finished one, a wrong command line, a mistake the run names twice without a step in between, what you stop here (Ctrl-C, SIGTERM:
the ranks save), and more than --restarts starts in a row that get no further.
exit codes: the run's own, whatever the launcher made of it: 0 finished; 75 stopped after saving; 1 failed; 2 usage.

examples:
  python launch/supervise.py -- deepspeed --hostfile hostfile launch/pretrain.py launch/recipes/cpt_70b.yaml
  python launch/supervise.py -- srun python launch/pretrain.py launch/recipes/cpt_70b.yaml
"""


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    default = Limits()
    parser = argparse.ArgumentParser(
        description="start a training command, and start it again when that is worth it",
        epilog=EPILOG,
        usage="%(prog)s [options] -- LAUNCHER … launch/pretrain.py RECIPE …",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--restarts", type=int, default=default.restarts, help="starts in a row that get no further (default: %(default)s)")
    parser.add_argument(
        "--wait", type=float, default=default.first_wait, help="seconds before the next; doubled when in vain (%(default)g)"
    )
    parser.add_argument("--longest-wait", type=float, default=default.longest_wait, help="seconds (default: %(default)g)")
    parser.add_argument(
        "--grace", type=float, default=GRACE_SECONDS, help="seconds for ranks to save once their launcher ended (%(default)g)"
    )
    parser.add_argument("--host-faults", type=int, default=default.host_faults, help="faults at which a host is left out (%(default)s)")
    parser.add_argument("--min-hosts", type=int, help="of the hostfile, those that always stay (default: all but one)")
    at = argv.index("--") if "--" in argv else len(argv)
    args, command = parser.parse_args(argv[:at]), argv[at + 1 :]
    if not command or script_at(command) is None:
        parser.error("give the training command after --, e.g. -- deepspeed launch/pretrain.py RECIPE")
    limits = Limits(args.restarts, args.wait, max(args.wait, args.longest_wait), args.host_faults)
    try:
        run_dir = _recipe(command).run_dir
        make = _command(command, run_dir, limits, args.min_hosts)
    except (RecipeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    # a node that lost its power closes no connection: without questions pdsh would wait a quarter of an hour for it
    os.environ.setdefault("PDSH_SSH_ARGS_APPEND", "-o ServerAliveInterval=15 -o ServerAliveCountMax=3")
    return Supervisor(Plan(make, run_dir, limits, args.grace, hostfile_of(command) is not None)).run()


def _recipe(command: list[str]) -> Recipe:
    """The recipe the command trains. Raises RecipeError: it would not begin."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--resume")
    words, _ = parser.parse_known_intermixed_args(command[script_at(command) + 1 :])
    return load(words.recipe, words.overrides)


def _command(command: list[str], run_dir: Path, limits: Limits, min_hosts: int | None):
    """What makes the command of each start. Raises ValueError: the hostfile, or what goes to its hosts, is wrong."""
    file = hostfile_of(command)
    if file is None:
        brief = briefly(command)
        return lambda history: brief
    for env_file in (Path.home() / ".deepspeed_env", Path(".deepspeed_env")):
        if env_file.is_file() and (faults := env_file_faults(env_file.read_text(encoding="utf-8"))):
            raise ValueError("\n".join(f"{env_file}: {fault}" for fault in faults))
    if not file.is_file():
        raise ValueError(f"--hostfile {file}: no such file; DeepSpeed would train on this node alone. See launch/hostfile.example")
    try:
        hosts = parse_hostfile(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--hostfile {file}: {error}") from None
    at_least = max(1, len(hosts) - 1) if min_hosts is None else min_hosts
    return Hosts(command, file, run_dir / "hostfile", limits, at_least, say).command_for


if __name__ == "__main__":
    sys.exit(main())
