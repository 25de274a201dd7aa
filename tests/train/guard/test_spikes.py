"""The ladder's rules, from made-up losses and norms."""

import json
import math
import random
import statistics

import pytest

from train.guard import spikes
from train.guard.replay import Record, RecordError, recorded
from train.guard.spikes import Ladder, Memory, Rules

RULES = Rules(zscore=6.0, window=16, nonfinite_in_a_row=4, skipped_of_1000=5, rewind_after=3, max_rewinds=1)


def calm(steps: int, seed: int = 0) -> list[tuple[float, float]]:
    rng = random.Random(seed)
    return [(rng.gauss(2.0, 0.03), abs(rng.gauss(0.5, 0.05))) for _ in range(steps)]


def run(numbers: list[tuple[float, float]], rules: Rules = RULES, record: Record | None = None) -> tuple[Ladder, list[str]]:
    """The ladder after these steps, and what was skipped why."""
    ladder, why = Ladder(rules, record), []
    for step, (loss, norm) in enumerate(numbers, 1):
        accepted = ladder.accepts(step, loss, norm)
        why.append(ladder.note(step, loss, norm, accepted).skip)
        assert accepted == (not why[-1])
    return ladder, why


def test_calm_steps_are_all_taken():
    for seed in range(20):
        assert not any(run(calm(300, seed))[1])


@pytest.mark.parametrize(
    ("numbers", "why"),
    [((8.0, 0.5), "loss"), ((2.0, 6.0), "grad norm"), ((8.0, 6.0), "loss .* and grad norm"), ((math.nan, 0.5), "not finite"), ((2.0, math.inf), "not finite")],
)  # fmt: skip
def test_a_step_far_out_or_not_finite_is_skipped_and_remembered_by_nothing_but_its_number(numbers, why):
    import re

    before, _ = run(calm(30))
    ladder, skipped = run([*calm(30), numbers])
    assert re.match(why, skipped[-1]) and not any(skipped[:-1])
    assert ladder.memory.losses == before.memory.losses and ladder.memory.norms == before.memory.norms and ladder.memory.skipped == (31,)


def test_a_step_far_below_is_taken():
    assert not run([*calm(30), (0.5, 0.01)])[1][-1]


def test_nothing_is_far_out_before_half_the_window_is_there_or_where_no_rule_is_set():
    assert not run([*calm(7), (9.0, 9.0)])[1][-1] and run([*calm(8), (9.0, 9.0)])[1][-1]
    assert not any(run([*calm(30), (900.0, 900.0)], Rules())[1])


def test_deviations_are_those_of_the_median_distance_from_the_median():
    rng = random.Random(3)
    values = tuple(rng.gauss(5, 1) for _ in range(101))
    middle = sorted(values)[50]
    spread = sorted(abs(v - middle) for v in values)[50] / statistics.NormalDist().inv_cdf(0.75)
    assert spikes.deviations(9.0, values, 0.0) == pytest.approx((9.0 - middle) / spread, rel=1e-4)


def test_losses_that_lie_close_together_make_no_harmless_step_far_out():
    flat = [(2.0 + 1e-6 * (k % 3), 0.5) for k in range(30)]
    assert not run([*flat, (2.05, 0.9)])[1][-1] and run([*flat, (2.2, 0.5)])[1][-1] and run([*flat, (2.0, 1.5)])[1][-1]


def test_several_skipped_in_a_row_ask_for_a_rewind_and_one_that_is_taken_begins_anew():
    ladder, _ = run([*calm(30), (8.0, 1.0), (8.0, 1.0)])
    assert not ladder.verdict(32).ends_here
    ladder, _ = run([*calm(30), (8.0, 1.0), (math.nan, 1.0), (8.0, 1.0)])
    assert ladder.verdict(33).rewind
    ladder, _ = run([*calm(30), (8.0, 1.0), (8.0, 1.0), (2.0, 0.5), (8.0, 1.0), (8.0, 1.0)])
    assert not ladder.verdict(35).ends_here


def test_the_last_step_of_the_ladder_stops():
    spike, nan = (8.0, 1.0), (math.nan, 1.0)
    ladder, _ = run([*calm(30), spike, spike, spike])
    ladder.memory = Memory.of({**ladder.memory.to_dict(), "rewinds": 1})
    assert ladder.verdict(33).stop == "3 steps skipped in a row again, after 1 rewind"
    no_rewinds = Rules(zscore=6.0, window=16, nonfinite_in_a_row=4, rewind_after=3)
    assert run([*calm(30), *[spike] * 3], no_rewinds)[0].verdict(33).stop == "3 steps skipped in a row"
    assert not run([*calm(30), *[nan] * 3], no_rewinds)[0].verdict(33).stop
    assert "not finite for 4 steps in a row" in run([nan] * 4, Rules(nonfinite_in_a_row=4))[0].verdict(4).stop
    every_other = [n for k in range(6) for n in (*calm(3, k), spike)]
    assert run([*calm(30), *every_other])[0].verdict(54).stop == "6 steps of the last 1,000 skipped"
    far_apart = [n for k in range(6) for n in (*calm(300, k), spike)]
    assert not run(far_apart)[0].verdict(1806).stop


def test_the_memory_goes_through_a_checkpoint_and_back():
    numbers = [*calm(30), (8.0, 1.0), *calm(40, 1), (8.0, 1.0), (math.nan, 2.0), *calm(3, 2)]
    uncut, why = run(numbers)
    for cut in (5, 31, 40, 73, 74):
        ladder, first = run(numbers[:cut])
        again = Ladder(RULES)
        again.memory = Memory.of(json.loads(json.dumps(ladder.memory.to_dict())))
        assert again.memory == ladder.memory
        rest = []
        for step, (loss, norm) in enumerate(numbers[cut:], cut + 1):
            rest.append(again.note(step, loss, norm, again.accepts(step, loss, norm)).skip)
        assert first + rest == why and again.memory == uncut.memory


def test_a_record_stands_before_the_rules_up_to_its_last_step():
    spike = (8.0, 1.0)
    numbers = [*calm(30), spike, spike, *calm(2, 1), spike]
    ladder, why = run(numbers, record=Record(32, {5: "by hand", 32: "loss far out"}))
    assert [k for k, w in enumerate(why, 1) if w] == [5, 32, 35] and why[4] == "by hand"
    assert not Ladder(RULES, Record(9, {})).verdict(9).ends_here


def test_a_record_is_read_from_metrics_and_what_is_none_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1, "loss": 3.0, "skipped": False}, {"step": 2, "loss": None, "skipped": True, "why": "not finite"}, {"step": 2, "heldout/a/loss": 2.0},
        {"step": 1, "event": "rewind", "rewind": 1, "left_out": [[0, 4, 8]], "plans": [[0, "ab"]]},
        {"step": 1, "event": "rewind", "rewind": 2, "left_out": [[0, 4, 12]], "plans": [[0, "ab"]]},
        {"step": 3, "loss": 2.0},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    assert recorded(path) == Record(3, {2: "not finite"}, ((0, 4, 12),), ((0, "ab"),), 2)
    path.write_text('{"step": 1, "loss": 3.0}\nrubbish\n{"step": 2, "loss": 3.0}\n')
    with pytest.raises(RecordError, match="line 2: not a line of metrics.jsonl"):
        recorded(path)
    path.write_text("")
    with pytest.raises(RecordError, match="holds no step"):
        recorded(path)
    with pytest.raises(RecordError, match="cannot be read"):
        recorded(tmp_path / "none")
