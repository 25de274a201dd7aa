"""The constants that calibrate.py fitted, as they are kept."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from train.preflight.planner.timing import Constants

FILE = Path(__file__).with_name("constants.json")


@functools.cache
def constants() -> Constants:
    return Constants(**json.loads(FILE.read_text(encoding="utf-8"))["constants"])
