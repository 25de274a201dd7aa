"""How much time there is, and whether a save fits into it."""

import math

from train.guard import limits
from train.world.launchers import job_ends_at


def test_the_first_of_the_limits_counts_and_another_jobs_end_does_not():
    given = limits.of(30, 10, 1_000_300.0, now=1_000_000.0, clock=50.0, begun=20.0)
    assert given.end == 350.0 and given.first == "the job's time limit"
    given = limits.of(30, 1, 1_000_300.0, now=1_000_000.0, clock=50.0, begun=20.0)
    assert given.end == 80.0 and given.first == "guard.minutes=1"
    for none in (None, 999_999.0):
        given = limits.of(30, None, none, now=1_000_000.0, clock=50.0, begun=20.0)
        assert given.end == math.inf and not given.first


def test_slurm_says_when_a_job_ends():
    assert job_ends_at({"SLURM_JOB_END_TIME": "1764180000"}) == 1764180000
    for other in ({}, {"SLURM_JOB_END_TIME": ""}, {"SLURM_JOB_END_TIME": "Unknown"}):
        assert job_ends_at(other) is None


def test_a_save_that_was_never_measured_takes_what_a_slow_disk_takes_and_is_tried_all_the_same():
    assert limits.save_seconds(12.0, 94e9) == 12.0
    assert limits.save_seconds(None, 94e9) == 470.0
    assert limits.needed_seconds(10.0, 3.0) == 26.0
    assert limits.fits(20.0, 30.0) and not limits.fits(20.1, 30.0) and limits.fits(None, 0.0)
