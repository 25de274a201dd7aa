"""Where the checkout and the project's shared real data lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"  # not part of the checkout: tests that read it skip where it is absent
