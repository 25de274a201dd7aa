"""Steps whose loss or gradient was not finite, counted on every rank alike: a few are skipped, too many in a row end the run."""

from __future__ import annotations

from collections.abc import Callable


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class NonFiniteSteps:
    """Counts; `limit` of them in a row are too many."""

    def __init__(self, limit: int):
        self.limit, self._in_a_row = limit, 0

    def note(self, finite: bool, step: int, documents: Callable[[], list[str]]) -> None:
        """One step more.

        Args:
            documents: names the step's documents; asked when there is something to tell.
        Raises:
            NonFiniteError: after `limit` steps in a row that were not finite, on every rank alike.
        """
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row < self.limit:
            return
        names = documents()
        shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        raise NonFiniteError(
            f"step {step}: loss or gradient not finite for {self._in_a_row} steps in a row; the weights are those before them. "
            f"Documents of this step: {shown}. Lower optim.lr, lengthen the warm-up, or look at these documents with data_tools.show"
        )
