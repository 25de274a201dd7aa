"""Which end of a run is worth another start."""

import itertools
import random

import pytest

from train.guard.supervise import Ended, Limits, Verdict, env_file_faults, in_vain, judge, left_out, parse_hostfile

LIMITS = Limits(restarts=3, first_wait=5, longest_wait=60, host_faults=2, host_memory=4)
DIED = Ended(1, 10)


def verdicts(*history: Ended, step_before: int = 0) -> list[Verdict]:
    return [judge(history[: n + 1], LIMITS, step_before) for n in range(len(history))]


@pytest.mark.parametrize(
    "ended, again, code",
    [
        (Ended(0, 10, said=True), False, 0),
        (Ended(75, 10, "SIGTERM", said=True), True, None),  # the ranks were told to stop, this supervisor was not
        (Ended(75, 10, said=True, asked=True), False, 75),
        (Ended(75, 10, "guard.minutes=90", said=True), False, 75),  # whoever set the time has other plans with the machine then
        (Ended(75, 10, "the job's time limit", said=True), False, 75),
        (Ended(1, 10, "CUDA error", said=True), True, None),
        (Ended(1, 0, "shards/a: damaged", said=True), True, None),  # once may be the weather
        (Ended(137, 10), True, None),
        (Ended(1, 10, asked=True), False, 1),
        (Ended(0, 10, said=True, asked=True), False, 0),
        (Ended(2, 0), False, 2),
        (Ended(130, 10, said=True), False, 130),
    ],
)
def test_one_end(ended, again, code):
    verdict = judge([ended], LIMITS)
    assert verdict.again == again and (again or verdict.code == code)


def test_a_mistake_that_the_run_names_twice_without_a_step_in_between_ends_it():
    mistake = Ended(1, 0, "shards/a/00003.arrow: damaged at byte 17, process 4711", said=True)
    again = Ended(1, 0, "shards/a/00003.arrow: damaged at byte 17, process 5822", said=True)
    assert [v.again for v in verdicts(mistake, again)] == [True, False]
    assert "damaged" in verdicts(mistake, again)[-1].why
    other = Ended(1, 0, "no room on the disk", said=True)
    assert [v.again for v in verdicts(mistake, other)] == [True, True], "another cause: something changed"
    stepped = Ended(1, 7, "shards/a/00003.arrow: damaged at byte 17, process 5822", said=True)
    assert [v.again for v in verdicts(mistake, stepped)] == [True, True], "it got further"
    silent = Ended(1, 0)
    assert [v.again for v in verdicts(silent, silent)] == [True, True], "a host that is booting says nothing, and is waited for"


@pytest.mark.parametrize(
    "cause",
    [
        "/runs/x/metrics.jsonl: No space left on device; make room there, or give a place on a larger disk",
        "[Errno 28] a checkpoint takes 3.28 GB, /runs/x/checkpoints has 1.10 GB free",
        "/runs/x: Disk quota exceeded; make room there, or give a place on a larger disk",
        "rank 3 host b: OSError: [Errno 5] Input/output error: '/data/shards/000.arrow'",
        "OSError: [Errno 116] Stale file handle: '/data/shards/000.arrow'",
    ],
)
def test_a_disk_that_is_full_or_away_is_waited_for(cause):
    history = [Ended(1, 10, cause, said=True)] * 4
    assert [(v.again, v.wait) for v in verdicts(*history, step_before=10)] == [(True, 5), (True, 10), (True, 20), (False, 0)]


@pytest.mark.parametrize(
    "code, said",
    [(247, "SIGKILL"), (137, "SIGKILL"), (245, "SIGSEGV"), (139, "SIGSEGV"), (143, "SIGTERM"), (241, "SIGTERM"), (250, "SIGABRT")],
)
def test_a_signal_is_told_by_its_name_whatever_a_launcher_makes_of_it(code, said):
    verdict = judge([Ended(code, 10)], LIMITS)
    assert verdict.again and verdict.why == f"killed by {said} (exit code {code}), without a word"
    assert judge([Ended(3, 10)], LIMITS).why == "ended with 3"
    assert judge([Ended(code, 10, "rank 1 host b: killed by SIGBUS", said=True)], LIMITS).why == "rank 1 host b: killed by SIGBUS"


def test_a_failure_at_one_step_again_and_again_ends_although_every_start_makes_steps_before_it():
    """Out of memory at step 537, each time after going on from step 500."""
    history = [Ended(1, 537, "out of memory", said=True)] * 3
    assert [v.again for v in verdicts(*history, step_before=500)] == [True, True, False]
    assert in_vain([Ended(1, 537)] * 3, 500) == 2


def test_starts_in_vain_are_limited_and_progress_begins_the_count_anew():
    assert [v.again for v in verdicts(*[DIED] * 6)] == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]  # the first got to step 10, three restarts did not
    further = [Ended(1, step) for step in range(1, 100)]
    assert all(v.again and v.wait == 5 for v in verdicts(*further)), "a run that gets further may be started for ever"
    assert [v.again for v in verdicts(*[Ended(75, 10, said=True)] * 6)][-1] is False, "a machine that preempts at once, too"


def test_waits_double_up_to_the_longest():
    many = Limits(restarts=99, first_wait=5, longest_wait=60)
    assert [judge([Ended(1, 0)] * n, many).wait for n in range(1, 8)] == [5, 10, 20, 40, 60, 60, 60]


def test_random_histories_end_and_never_end_while_they_get_further():
    rng = random.Random(1)
    seen = set()
    for _ in range(500):
        step, history = 0, []
        for n in itertools.count(1):
            assert n < 500
            moved = rng.random() < 0.5
            step += moved
            code = rng.choice([1, 75, 137, 139])
            history.append(Ended(code, step, rng.choice("abc"), said=code in (1, 75)))
            verdict = judge(history, LIMITS)
            assert verdict.again or not moved
            assert not verdict.again or verdict.wait >= LIMITS.first_wait
            if not verdict.again:
                assert verdict.code == code
                seen.add(verdict.why.split()[0])
                break
    assert len(seen) > 1, "both the mistake and the limit were met"


def test_hosts_at_fault_again_and_again_are_left_out_down_to_those_that_must_stay():
    hosts = ["a", "b", "c"]
    history = [Ended(1, 1, hosts=("b",)), Ended(1, 2, hosts=("c", "c")), Ended(1, 3, hosts=("b", "elsewhere"))]
    assert left_out(history, hosts, LIMITS, at_least=2) == ["b"]
    assert left_out(history[:2], hosts, LIMITS, at_least=2) == []
    assert left_out([*history, Ended(1, 4, hosts=("b", "c"))], hosts, LIMITS, at_least=2) == ["b"], "the worst"
    assert left_out(history, hosts, LIMITS, at_least=3) == []
    long_ago = history + [Ended(1, 9)] * LIMITS.host_memory
    assert left_out(long_ago, hosts, LIMITS, at_least=1) == []


def test_a_hostfile_is_read_as_deepspeed_reads_it():
    from deepspeed.launcher.runner import _parse_hostfile

    good = "# nodes\n\n gpu01 slots=8\ngpu02   slots=4  # half\n"
    assert list(parse_hostfile(good)) == list(_parse_hostfile(good.splitlines())) == ["gpu01", "gpu02"]
    for bad in ("", "# none\n", "gpu01\n", "gpu01 slots=\n", "gpu01 slots=8\ngpu01 slots=8\n", "gpu01 8\n"):
        with pytest.raises(ValueError):
            _parse_hostfile(bad.splitlines())
        with pytest.raises(ValueError):
            parse_hostfile(bad)


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "DB_PASSWORD", "KEY", "openai_api_key"]
)
def test_secrets_do_not_go_onto_the_command_lines_of_nodes(name):
    [fault] = env_file_faults(f"NCCL_SOCKET_IFNAME=ib0\n{name}=hunter2\nOMP_NUM_THREADS=4\n")
    assert name in fault and "hunter2" not in fault


def test_lines_that_end_deepspeeds_launcher_are_named():
    assert [f.split(":")[0] for f in env_file_faults("A=1\n\nexport\nMONKEY=1\nNCCL_IB_HCA=mlx5\n")] == ["line 2", "line 3"]
