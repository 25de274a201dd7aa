"""How fast a part is on this machine: `python launch/benchmark.py PART [--json F]`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.files.atomic import write_fault
from data_tools.work.errors import message
from train.benchmark.circumstances import circumstances, keep, require_keepable
from train.world.launchers import place_of

# each module has `add_arguments(parser)` and `run(args) -> {"rows": [{column: value}], …}`, and says its purpose on its first line
PARTS = {
    "train": "train.benchmark.train",
    "peers": "train.benchmark.peers",
    "limits": "train.benchmark.limits.calls",
    "tokenize": "data_tools.corpus.bench",
    "loader": "train.benchmark.loader",
    "packing": "train.benchmark.packing",
    "load": "train.benchmark.load",
    "export": "train.benchmark.export",
    "checkpoint": "train.benchmark.checkpoint",
    "gpu": "train.benchmark.gpu.calls",
}
UNPRINTED = ("recipe", "job", "steps_taken", "runs", "tokens_per_second_per_gpu", "mfu", "peak_memory_gib")  # for programs
REGRESSION = 3  # exit code of a comparison whose second result is slower
EXAMPLE = """example:
  python launch/benchmark.py {part} {words}--json {part}.json
"""


def main(argv: list[str] | None = None) -> int:
    words = _without_local_rank(list(sys.argv[1:] if argv is None else argv))
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
    args = _parser(part, module).parse_intermixed_args(words[1:])  # options may stand between key=value words
    rank = place_of(os.environ).rank
    if args.json and (fault := write_fault(args.json) or ("" if args.json.absolute().parent.is_dir() else "no such folder")):
        return _complain(f"--json {args.json}: cannot be written ({fault}); give another file", rank)
    begun = datetime.now(UTC)
    try:
        if args.keep:
            require_keepable(args.keep)
        result = module.run(args)
    except (ValueError, OSError) as error:
        if (said := message(error, "the folder for temporary files")) is None:
            raise
        return _complain(said, rank)
    except KeyboardInterrupt:
        return 130
    if rank == 0:
        report = {
            "command": shlex.join(["python", "launch/benchmark.py", *words]),
            **circumstances(),
            "date": begun.isoformat(timespec="seconds"),
        } | result
        _tell(report, result, part, args)
    _leave_group()
    return REGRESSION if result.get("verdict") == "slower" else 0


def _parser(part: str, module: Any) -> argparse.ArgumentParser:
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
    return parser


def _tell(report: dict[str, Any], result: dict[str, Any], part: str, args: argparse.Namespace) -> None:
    print(_tables(result))
    print(f"{report['machine']}; commit {report['commit']}; {report['date']}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"{part}: {len(result.get('rows', []))} rows, written to {args.json}")
    if args.keep:
        print(f"{part}: kept as {keep(report, part, args.keep)}, with a line in the README.md beside it")


def _without_local_rank(words: list[str]) -> list[str]:
    """What DeepSpeed's launcher puts in front goes into the environment, where torchrun has it, too."""
    for word in [word for word in words if word.startswith("--local_rank=")]:
        words.remove(word)
        os.environ.setdefault("LOCAL_RANK", word.partition("=")[2])
    return words


def _complain(said: str, rank: int) -> int:
    """One message: the other ranks give rank 0, and the launcher that ends them, a head start."""
    if rank:
        time.sleep(5)
    print(f"{f'rank {rank}: ' if rank else ''}error: {said}", file=sys.stderr)
    return 1


def _leave_group() -> None:
    """Ranks that a launcher started end together."""
    dist = sys.modules.get("torch.distributed")
    if dist and dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


class _Counts(argparse.ArgumentParser):
    """Whose numbers are counts and sizes: above 0, but for those of which there may be none."""

    MAY_BE_NONE = ("--warmup",)

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


def _tables(result: dict[str, Any]) -> str:
    """Values as `name: value` lines, then what comes in rows as aligned columns, the main table last; what is for programs is left out."""
    lines = [f"{key}: {_words(value)}" for key, value in result.items() if key not in UNPRINTED and not _is_table(value)]
    tables = {key: value for key, value in result.items() if key not in UNPRINTED and key != "rows" and _is_table(value)}
    for name, rows in tables.items():
        lines += ["", f"{name}:", *_table(rows)]
    if tables and result.get("rows"):
        lines.append("")
    return "\n".join([*lines, *_table(result.get("rows", []))])


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _words(value: Any) -> str:
    return (
        ", ".join(f"{k} {_cell(v)}" for k, v in value.items()) if isinstance(value, dict) else _cell(value) if value is None else str(value)
    )


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Aligned; a table of few rows and many columns lies on its side."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    if len(columns) > 10 and len(rows) <= 4:
        cells = [list(row) for row in zip(*cells)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]) for row in cells if rows]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
