"""What one source may cost, and the error that says why it was refused."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1 << 20


class ArchiveError(ValueError):
    """A source that is refused: `reason` is one word to count by, `detail` says what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True)
class Caps:
    expanded: int = 200 * MB  # bytes of all members together
    ratio: int = 100  # expanded / compressed, looked at from `ratio_from` bytes on
    ratio_from: int = MB
    members: int = 10_000
    text: int = 32 * MB  # bytes of TeX kept in memory
    source: int = 200 * MB  # bytes of the compressed source itself
    header: int = 64 * 1024  # bytes of one extended header (a name)
    depth: int = 40  # folders above a member


CAPS = Caps()
