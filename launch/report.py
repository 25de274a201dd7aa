"""A run's page, at any time: `python launch/report.py runs/NAME` writes runs/NAME/report.html, which opens without a network."""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

EPILOG = """A run writes it at its end; for one that still runs, was cut short, or was evaluated since, this makes it anew.
Figures lie beside the page as PNG and SVG, in figures/. Whatever lies in runs/NAME/eval/ is shown, too.

examples:
  python launch/report.py runs/cpt_7b
  python launch/report.py runs/cpt_7b runs/sft_7b               # several
  python launch/report.py runs/cpt_7b --out pages/cpt_7b.html
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", type=Path, metavar="RUN", help="the folder of a run: runs/NAME")
    parser.add_argument("--out", type=Path, metavar="F.html", help="the page (default: RUN/report.html)")
    args = parser.parse_args(argv)
    if args.out and len(args.run) > 1:
        parser.error("--out is for one run")

    from data_tools.work.errors import message
    from train.report.write import write_report

    code = 0
    for run in args.run:
        try:
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
            page = write_report(run, args.out)
            print(f"{page}: {page.stat().st_size / 1e3:,.0f} kB; figures in {page.parent / 'figures'}")
        except (ValueError, OSError) as error:
            if (said := message(error, args.out or run)) is None:
                raise
            print(f"error: {said}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
