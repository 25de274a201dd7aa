"""Steps that were not finite are counted, and too many in a row end the run."""

import pytest

from train.guard.nonfinite import NonFiniteError, NonFiniteSteps


def test_ten_steps_in_a_row_that_are_not_finite_end_the_run_with_their_documents():
    steps = NonFiniteSteps(3)
    steps.note(False, 1, lambda: ["a/1"])
    steps.note(False, 2, lambda: ["a/2"])
    steps.note(True, 3, lambda: [])
    steps.note(False, 4, lambda: ["a/4"])
    steps.note(False, 5, lambda: ["a/5"])
    with pytest.raises(NonFiniteError, match=r"step 6: .* 3 steps in a row.*a/6, b/7"):
        steps.note(False, 6, lambda: ["a/6", "b/7"])
