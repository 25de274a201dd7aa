"""The recipes by name: `astrollama recipes` lists them, `astrollama recipes NAME` prints one, its head in this command's words."""

from __future__ import annotations

import argparse

from train.recipe.load import RECIPES

from .doors import as_commands

EXAMPLE = """example:
  astrollama recipes cpt_7b > mine.yaml        then edit it, and: astrollama pretrain mine.yaml
"""


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="The recipes that come with the program; with a NAME: that one, whose first lines are its manual.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    parser.add_argument("name", nargs="?", choices=sorted(known), metavar="NAME", help=", ".join(known))
    chosen = parser.parse_args(words).name
    if chosen is None:
        for name, path in known.items():
            print(f"{name:<20}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return 0
    lines = known[chosen].read_text(encoding="utf-8").splitlines()
    print("\n".join(as_commands(line) if line.startswith("#") else line for line in lines))
    return 0
