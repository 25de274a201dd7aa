"""How fast a part is on this machine: `python launch/benchmark.py PART [--json F]`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.files.atomic import write_fault
from data_tools.work.errors import message
from train.benchmark.circumstances import circumstances, keep, require_keepable

# each module has `add_arguments(parser)` and `run(args) -> {"rows": [{column: value}], …}`, and says its purpose on its first line
PARTS = {
    "train": "train.benchmark.train",
    "tokenize": "data_tools.corpus.bench",
    "loader": "train.benchmark.loader",
    "packing": "train.benchmark.packing",
    "load": "train.benchmark.load",
    "export": "train.benchmark.export",
    "checkpoint": "train.benchmark.checkpoint",
}
EXAMPLE = """example:
  python launch/benchmark.py {part} {words}--json {part}.json
"""


def main(argv: list[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parts = [part for part, module in PARTS.items() if importlib.util.find_spec(module)]
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description="Measure one part of the program on this machine; prints a table.",
        epilog=EXAMPLE.format(part="packing", words=""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=parts, help="what to measure; PART --help tells its options")
    part = parser.parse_args(words[:1]).part
    module = importlib.import_module(PARTS[part])
    parser = _Counts(
        prog=f"benchmark.py {part}",
        description=(module.__doc__ or "").strip(),
        epilog=EXAMPLE.format(part=part, words=f"{module.NEEDS} " if hasattr(module, "NEEDS") else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument(
        "--json", type=Path, metavar="F", help="also write the figures, with command, commit, machine and date, to this file"
    )
    parser.add_argument(
        "--keep", metavar="NAME", help="also keep them in the repository: launch/results/NAME.json and a line of the table there"
    )
    args = parser.parse_args(words[1:])
    if args.json and (fault := write_fault(args.json) or ("" if args.json.absolute().parent.is_dir() else "no such folder")):
        print(f"error: --json {args.json}: cannot be written ({fault}); give another file", file=sys.stderr)
        return 1
    begun = datetime.now(UTC)
    try:
        if args.keep:
            require_keepable(args.keep)
        result = module.run(args)
    except (ValueError, OSError) as error:
        if (said := message(error, "the folder for temporary files")) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return 1
    report = {
        "command": shlex.join(["python", "launch/benchmark.py", *words]),
        **circumstances(),
        "date": begun.isoformat(timespec="seconds"),
    }
    print(_table(result))
    print(f"{report['machine']}; commit {report['commit']}; {report['date']}")
    if args.json:
        args.json.write_text(json.dumps(report | result, indent=1) + "\n")
        print(f"{part}: {len(result.get('rows', []))} rows, written to {args.json}")
    if args.keep:
        print(f"{part}: kept as {keep(report | result, part, args.keep)}, with a line in the README.md beside it")
    return 0


class _Counts(argparse.ArgumentParser):
    """Whose numbers are counts and sizes: above 0, but for those of which there may be none."""

    MAY_BE_NONE = ("--warmup", "--local_rank")

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        if (kind := options.get("type")) in (int, float) and not set(names) & set(self.MAY_BE_NONE):
            options["type"] = _above_0(kind)
        return super().add_argument(*names, **options)


def _above_0(kind: type) -> Callable[[str], Any]:
    def cast(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    cast.__name__ = kind.__name__
    return cast


def _table(result: dict[str, Any]) -> str:
    """`rows` as aligned columns, everything else as `name: value` lines above them."""
    lines = [f"{key}: {value}" for key, value in result.items() if key != "rows"]
    rows = result.get("rows", [])
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    for row in cells if rows else []:
        lines.append("  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]))
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
