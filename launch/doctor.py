"""Go or no-go before a run, on every node: `deepspeed … launch/doctor.py RECIPE.yaml`, by the launcher the run will have."""

import argparse
import dataclasses
import json
import os
import re
import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

EPILOG = """exit codes: 0 go; 1 no-go; 2 usage.

examples:
  deepspeed --hostfile hostfile launch/doctor.py launch/recipes/cpt_70b.yaml --hostfile hostfile
  srun -N 8 --ntasks-per-node 8 python launch/doctor.py launch/recipes/cpt_70b.yaml --link 50
  python launch/doctor.py --json doctor.json       # this machine alone
"""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_intermixed_args(argv)
    if args.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what its sockets say is said as a finding
    from train.world.launchers import WorldError

    try:
        return _examined(args)
    except WorldError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="go or no-go before a run: what every node has, what differs between them, what is slow, whether it fits",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("recipe", nargs="?", help="a YAML file: its inputs and its memory plan are looked at too")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe values to replace")
    parser.add_argument("--hostfile", type=_hostfile, metavar="F", help="who should have come: lines `node1 slots=8`")
    parser.add_argument(
        "--link",
        type=_positive,
        metavar="GB/S",
        help="what a link between two nodes should carry, gigabytes a second; half of it is a no-go",
    )
    parser.add_argument("--shared", type=Path, metavar="DIR", help="a folder all nodes should share (default: the recipe's runs)")
    parser.add_argument("--wait", type=_positive, default=30, metavar="S", help="seconds to wait for ranks to come (default 30)")
    parser.add_argument("--json", type=Path, metavar="F", help="write verdict, findings and every fact there")
    parser.add_argument("--local_rank", type=int, default=None, help=argparse.SUPPRESS)  # DeepSpeed's launcher gives it
    return parser


def _hostfile(text: str) -> dict[str, int]:
    from train.guard.supervise import parse_hostfile

    try:
        lines = parse_hostfile(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # not UTF-8, too
        raise argparse.ArgumentTypeError(f"{text}, {error}") from None
    return {host: int(re.search(r"slots=(\d+)", line)[1]) for host, line in lines.items()}


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: more than 0 is wanted")
    return value


def _examined(args: argparse.Namespace) -> int:
    from train.preflight.doctor.examine import arrived, examine
    from train.preflight.doctor.report import Asked

    world, fault = arrived()
    link = args.link * 1e9 if args.link else None
    report = examine(world, Asked(args.recipe, args.overrides, args.shared, args.hostfile, link, args.wait), fault)
    if world.rank == 0:
        _say(report)
        if args.json:
            content = {
                "go": report.go,
                "seconds": report.seconds,
                "findings": [dataclasses.asdict(f) for f in report.findings],
                **report.facts,
            }
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if report.go else 1


def _say(report) -> None:
    for line in report.lines:
        print(f"  {line}")
    width = max((len(f.check) for f in report.findings), default=0)
    for verdict in ("warning", "no-go"):
        for f in report.findings:
            if f.verdict == verdict:
                first, *rest = f.text.splitlines()
                print(f"{verdict.upper():<8} {f.check:<{width}}  {first}")
                print("".join(f"{'':<8} {'':<{width}}  {line}\n" for line in rest), end="")
    bad = sum(f.verdict == "no-go" for f in report.findings)
    warned = len(report.findings) - bad
    said = f"{warned} warning{'s' * (warned != 1)}" if warned else "nothing wrong was found"
    print(
        f"go: {said}, in {report.seconds:.1f} s"
        if report.go
        else f"no-go: {bad} reason{'s' * (bad != 1)}, {warned} warnings, in {report.seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
