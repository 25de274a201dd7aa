"""The account of a run's time, with made-up clocks."""

import json

import pytest

from train.run.goodput import CAUSES, Goodput, process_start


def line(seconds: float, skipped: bool = False, wait: float = 0.0) -> str:
    return json.dumps({"step": 1, "seconds": seconds, "skipped": skipped, "data_wait_share": wait})


def test_every_second_since_the_first_start_has_one_cause_across_restarts(tmp_path):
    first = Goodput(tmp_path, 1000.0)
    first.spent("start", 1020.0)
    for step in range(10):
        first.step(1030.0 + 10 * step, data_wait=1.0, skipped=step == 4)
    first.spent("evaluation", 1125.0)
    first.spent("saving", 1130.0)
    first.step(1140.0, 0.0, False)
    first.write(1140.0)  # killed here, and started again after a minute
    second = Goodput(tmp_path, 1200.0)
    second.taken_back([line(10.0), json.dumps({"step": 3, "heldout/a/loss": 2.0})], "repeated")
    second.spent("start", 1215.0)
    second.step(1225.0, 0.0, False)
    second.taken_back([line(10.0, wait=0.1), line(10.0, skipped=True, wait=0.1)], "rewound")
    second.spent("rewound", 1230.0)
    wanted = {
        "useful": 82.0,
        "start": 35.0,
        "data": 10.0,
        "evaluation": 5.0,
        "saving": 5.0,
        "skipped": 0.0,
        "rewound": 23.0,
        "repeated": 10.0,
        "down": 60.0,
    }
    assert second.seconds == pytest.approx(wanted) and set(wanted) == set(CAUSES)
    assert second.wall == pytest.approx(230.0) and second.first_start == 1000.0 and second.share == pytest.approx(82 / 230)
    assert second.words() == "goodput 36% (no process running 26%, starting 15%, rewinds 10%, waiting for data 4%)"


def test_a_damaged_account_begins_anew_and_a_clock_set_back_takes_nothing_away(tmp_path):
    (tmp_path / "goodput.json").write_text('{"seconds": {"useful"')
    account = Goodput(tmp_path, 50.0)
    account.step(60.0, 0.0, False)
    account.step(40.0, 0.0, False)
    account.write(60.0)
    assert account.seconds["useful"] == 10.0 and Goodput(tmp_path, 55.0).seconds["down"] == 0.0


def test_it_is_written_about_once_a_second(tmp_path):
    account = Goodput(tmp_path, 0.0)
    account.step(5.0, 0.0, False)
    account.write(5.0)
    account.step(5.5, 0.0, False)
    account.write(5.5)
    assert json.loads((tmp_path / "goodput.json").read_text())["last_seen"] == 5.0
    account.write(5.5, at_once=True)
    assert json.loads((tmp_path / "goodput.json").read_text())["seconds"]["useful"] == 5.5


def test_the_start_of_this_process_is_known():
    import os
    import time

    import psutil

    assert process_start() == pytest.approx(psutil.Process(os.getpid()).create_time(), abs=1.5) and process_start() <= time.time()
