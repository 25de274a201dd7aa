"""torchrun told to say in a line what ranks failed (launch/command/torchrun.py), where it would find what does that."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

GROUP, NAME = "torchrun.logs_specs", "astrollama"
ASKED = ("--logs-specs", "--logs_specs")


def briefly(command: Sequence[str]) -> list[str]:
    """The command; with the option where it is torchrun's, says nothing of it, and this program is installed where that torchrun looks."""
    words = list(command)
    if Path(words[0]).name != "torchrun" or any(w.startswith(ASKED) for w in words) or not (_is_our_python(words[0]) and _is_installed()):
        return words
    return [words[0], *(ASKED[0], NAME), *words[1:]]


def _is_our_python(torchrun: str) -> bool:
    found = shutil.which(torchrun)
    return found is not None and os.path.realpath(Path(found).parent) == os.path.realpath(Path(sys.executable).parent)


def _is_installed() -> bool:
    """Not merely described in a checkout, and still there: torchrun ends at once where it finds no such plug-in."""
    places = [sysconfig.get_path("purelib"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    entries = [e for found in metadata.distributions(path=places) for e in found.entry_points if (e.group, e.name) == (GROUP, NAME)]
    try:
        return bool(entries) and importlib.util.find_spec(entries[0].module) is not None
    except (ImportError, ValueError):
        return False
