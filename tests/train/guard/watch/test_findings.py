"""Who did not arrive, and why: causes before effects, and the same judgement on both sides of a cut."""

import dataclasses
import itertools
import mmap

import pytest

from train.guard.watch import process
from train.guard.watch.findings import Condition, cut_off, judge, limit_seconds, ranks_in_words
from train.guard.watch.watcher import DISK_SECONDS, Patience
from train.world import beat

GLOO = "RuntimeError: [gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:40373: Connection reset by peer"


def well(rank: int, **changes) -> Condition:
    return dataclasses.replace(
        Condition(rank, f"node{rank // 2}", "running", step=7, phase="backward", meetings=40, waits=True, at=100.0), **changes
    )


def of(*conditions: Condition | None) -> dict[int, Condition | None]:
    return dict(enumerate(conditions))


def broken(rank: int, at: float = 100.0) -> Condition:
    return well(rank, state="raised", cause=GLOO, error_type="RuntimeError", at=at)


@pytest.mark.parametrize("guilty", [0, 1, 2, 3])
def test_a_dead_rank_is_the_cause_and_the_broken_connections_it_leaves_are_not(guilty):
    ranks = [broken(r, at=99.0) for r in range(4)]
    ranks[guilty] = well(guilty, state="gone", cause="killed by SIGKILL", at=100.0)  # its end is seen later than what it does to others
    assert (judge(of(*ranks)).ranks, judge(of(*ranks)).kind) == ((guilty,), "killed")
    ranks[guilty] = well(guilty, state="gone", cause="ended with exit code 0 before the run did")
    assert judge(of(*ranks)).kind == "exited"


def test_of_several_causes_the_first_counts_and_a_launchers_kills_come_after_it():
    found = judge(
        of(
            well(0, state="gone", cause="killed by SIGTERM", at=102.0),
            well(1, state="raised", cause="TypeError: x", error_type="TypeError"),
        )
    )
    assert (found.ranks, found.kind, found.cause) == ((1,), "raised", "TypeError: x")


def test_ranks_of_one_host_that_die_together_are_named_together():
    dead = [well(r, state="gone", cause="killed by SIGKILL", at=100 + r / 10) for r in (2, 3)]
    assert judge(of(broken(0), broken(1), *dead)).ranks == (2, 3)


def test_a_stopped_rank_is_named_while_all_others_wait():
    assert judge(of(well(0, state="stalled"), well(1, state="stopped"))).ranks == (1,)


@pytest.mark.parametrize(
    ("size", "lost", "named"),
    [(2, {1}, (1,)), (2, {0}, (1,)), (4, {3}, (3,)), (4, {0}, (0,)), (4, {1, 2, 3}, (0,)), (4, {0, 1}, (2, 3)), (4, {2, 3}, (2, 3))],
)
def test_both_sides_of_a_cut_name_the_same_ranks(size, lost, named):
    def side(unseen: set[int]) -> dict[int, Condition | None]:
        return {r: None if r in unseen else well(r, state="stalled") for r in range(size)}

    here, there = judge(side(lost)), judge(side(set(range(size)) - lost))
    assert here.ranks == there.ranks == named
    assert here.kind == there.kind == "unreachable"


def test_a_host_whose_own_link_is_down_is_the_lost_one_whatever_it_holds():
    waiting, alone = well(1, state="stalled"), well(0, state="stalled", link_down=True)
    assert judge({0: None, 1: waiting}, frozenset({0})).ranks == (0,)
    assert judge({0: alone, 1: None}).ranks == (0,) and "own link is down" in judge({0: alone, 1: None}).cause


@pytest.mark.parametrize(
    ("own", "theirs", "is_lost"),
    [
        ({"time": 998}, {"time": 985}, True),  # its host lost its power: it writes no more, where this one does
        ({"time": 998}, {"time": 996}, False),  # a cable between two that reach their disk
        ({"time": 998}, {"time": 993}, False),  # a clock that is behind
        ({"time": 985}, {"time": 985}, False),  # the disk went with the network, for this one too
        ({}, {"time": 985}, False),
        ({"time": 998}, {}, False),  # no disk is shared
        ({"time": 985}, {"time": 985, "link_down": True}, True),
    ],
)
def test_a_rank_that_writes_no_more_on_a_disk_where_others_do_is_the_lost_one(own, theirs, is_lost):
    assert cut_off(own, theirs, 1000) == is_lost
    assert judge({0: None, 1: well(1, state="stalled")}, frozenset({0} if is_lost else {})).ranks == ((0,) if is_lost else (1,))


def test_a_rank_that_is_stuck_in_its_own_code_is_told_from_those_that_wait_for_it():
    waiting = [well(r, state="stalled", idle_seconds=50) for r in range(4)]
    fewer = list(waiting)
    fewer[2] = well(2, state="stalled", meetings=39, waits=False, place="data/loader.py:80 in next_step", idle_seconds=50)
    assert judge(of(*fewer)).ranks == (2,) and "data/loader.py:80" in judge(of(*fewer)).cause
    in_a_layer = list(waiting)
    in_a_layer[3] = well(3, state="stalled", waits=False, place="model.py:5 in hook", idle_seconds=50)
    assert judge(of(*in_a_layer)).ranks == (3,)
    unseen = [
        well(r, state="stalled", waits=False, place="zero3.py:90 in step") for r in range(4)
    ]  # as on a GPU: all in one synchronisation
    unseen[1] = dataclasses.replace(unseen[1], place="model.py:5 in hook")
    assert judge(of(*unseen)).ranks == (1,)
    assert "none is late" in judge(of(*waiting)).cause


def test_an_error_agreed_on_by_all_has_one_voice_or_the_ranks_it_names():
    alike = [well(r, state="raised", cause="the checkpoint was not written", users_fault=True, at=100 - r) for r in range(3)]
    assert judge(of(*alike)).ranks == (0,)
    not_finite = [dataclasses.replace(c, details={"not_finite": True} if c.rank == 1 else {}) for c in alike]
    assert judge(of(*not_finite)).ranks == (1,)
    named = [dataclasses.replace(c, named_ranks=(2,)) for c in alike]
    assert judge(of(*named)).ranks == (2,)


def test_a_mistake_of_the_user_before_the_first_step_is_a_refusal():
    refused = well(1, state="raised", cause="shards/0.arrow: changed", users_fault=True, step=0)
    assert judge(of(broken(0), refused)).kind == "refused"
    assert judge(of(broken(0), dataclasses.replace(refused, step=3))).kind == "raised"


def test_a_broken_connection_without_a_dead_rank_is_the_networks():
    found = judge(of(broken(0), broken(1)))
    assert found.kind == "network" and "Connection reset" in found.cause


def test_a_second_ctrl_c_is_no_fault():
    assert judge(of(well(0, state="interrupted"), broken(1))).kind == "interrupted"


def test_what_takes_long_each_time_may_take_long_and_what_is_new_may_as_long_as_it_works():
    assert limit_seconds(45, 600, longest=0.1, quiet=50) == 45
    assert limit_seconds(45, 600, longest=100.0, quiet=50) == 300  # an upload that takes its time
    assert limit_seconds(45, 600, longest=None, quiet=3) == 600  # compiling
    assert limit_seconds(45, 600, longest=None, quiet=45) == 45
    assert limit_seconds(45, 600, longest=0.1, quiet=0, at_disk=True) == 600  # a file system that changes servers
    assert limit_seconds(0, 600, longest=0.1, quiet=45) == 600


def test_ranks_are_said_shortly():
    assert [ranks_in_words(r) for r in ([3], [0, 1, 2, 5], [7, 9])] == ["rank 3", "ranks 0-2, 5", "ranks 7, 9"]


@pytest.mark.parametrize(
    ("kilobytes_a_second", "waits_for_disk"),
    [(0, False), (10, False), (300, False), (5_000, True)],  # nothing; /proc each second; the store of a thousand ranks; a file
)
def test_a_rank_that_is_stuck_is_not_taken_for_one_at_a_disk_by_what_its_other_threads_read(
    monkeypatch, kilobytes_a_second, waits_for_disk
):
    moved = itertools.count(1 << 20, kilobytes_a_second * 250)
    monkeypatch.setattr(process, "thread_states", lambda pid: {"S"})
    monkeypatch.setattr(process, "bytes_moved", lambda pid: next(moved))
    monkeypatch.setattr(process, "cpu_seconds_of_children", lambda pid: 0.0)
    patience, said = Patience(), beat.Said(marks=1, phase="backward", again=True)
    for _ in range(4 * 60):  # a minute in one phase, after a first time in it
        patience.pass_(0.25, said, process.Process("S", cpu_seconds=1.0), 0)
    assert patience.idle == pytest.approx(60, abs=1)
    limit = limit_seconds(45, 600, patience.longest_in(said), patience.quiet, at_disk=patience.since_disk < DISK_SECONDS)
    assert limit == (600 if waits_for_disk else 45)


@pytest.mark.parametrize(
    ("busy_looks", "share", "is_quiet"),
    [(0, 0.0, True), (1, 0.02, True), (4, 1.0, False), (4, 0.1, False), (4, 0.0, False)],  # of four; a thread that looks around each second
)
def test_a_rank_that_waits_for_others_in_its_first_steps_is_quiet_whatever_its_other_threads_do(monkeypatch, busy_looks, share, is_quiet):
    looks, cpu = itertools.cycle(range(4)), itertools.count(1.0, 0.25 * share)
    monkeypatch.setattr(process, "thread_states", lambda pid: {"S", "R"} if next(looks) < busy_looks else {"S"})
    monkeypatch.setattr(process, "bytes_moved", lambda pid: 1)
    monkeypatch.setattr(process, "cpu_seconds_of_children", lambda pid: 0.0)
    patience, said = Patience(), beat.Said(marks=1, phase="backward", again=False)
    for _ in range(4 * 600):
        patience.pass_(0.25, said, process.Process("S", cpu_seconds=next(cpu)), 0)
    assert patience.longest_in(said) is None
    assert limit_seconds(45, 600, None, patience.quiet) == (45 if is_quiet else 600)


def test_a_phase_that_a_rank_has_left_before_is_no_first_time_however_short_it_was():
    block, told = mmap.mmap(-1, beat.SIZE), beat.Beat()
    told.tell(block)
    again = []
    for phase in ("loading", "loading", "forward", "backward", "forward", "backward", "backward", "optimizer"):
        told.phase(phase)
        told.mark()
        again.append(beat.said(block).again)
    assert again == [False, False, False, False, True, True, True, False]
    with told.meeting():
        assert beat.said(block).meeting and not beat.said(block).again
    patience = Patience()
    assert patience.longest_in(beat.Said(phase="backward", again=True)) == 0.0
    assert patience.longest_in(beat.Said(phase="backward", again=False)) is None
