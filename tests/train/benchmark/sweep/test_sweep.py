"""A sweep: its grid, what becomes of attempts that fail, the search for a micro-batch; and the comparison of two results."""

import json
import math
import os
import signal
import sys
import time

import psutil
import pytest

from tests.made import processes
from train.benchmark import paired
from train.benchmark.ranks import BenchError
from train.benchmark.step.job import Job
from train.benchmark.step.phases import common, united
from train.benchmark.sweep import page, search
from train.benchmark.sweep.attempts import Attempt, judged, watched
from train.benchmark.sweep.grid import combinations, values


def test_all_combinations_are_made_the_last_key_fastest_short_keys_in_full():
    found = combinations(["micro_batch=1,2", "activation_checkpointing=none,full"])
    assert found == [(f"micro_batch={m}", f"model.activation_checkpointing={a}") for m in (1, 2) for a in ("none", "full")]


def test_a_comma_within_brackets_or_quotes_belongs_to_its_value():
    assert values("[0.9,0.95],[0.9,0.99]") == ["[0.9,0.95]", "[0.9,0.99]"]
    assert values("'a,b',c") == ["'a,b'", "c"] and values('{a: [1,2], b: "]"},x') == ['{a: [1,2], b: "]"}', "x"]
    assert values("it's,x") == ["it's", "x"]


@pytest.mark.parametrize("words, said", [
    (["micro_batch=1,,2"], "a value is empty"), (["optim.betas=[0.9,0.95"], "not closed"), (["micro_batch=1", "micro_batch=2"], "swept twice"),
    (["micro_batch=2,2"], "comes twice"), (["compiled=true"], "did you mean compile"),
])  # fmt: skip
def test_a_grid_that_is_wrong_is_named(words, said):
    with pytest.raises(BenchError, match=said):
        combinations(words)


@pytest.mark.parametrize("code, text, outcome", [
    (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out of device memory"),
    (1, "RuntimeError: CUDA error: out of memory", "out of device memory"),
    (1, "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried", "out of host memory"),
    (-9, "", "out of host memory"), (247, "", "out of host memory"), (1, "[launch.py] exits with return code = -9", "out of host memory"),
    (1, "Traceback\n  File x\nZeroDivisionError: division by zero\n", "crashed"), (-11, "", "crashed"), (None, "step 3", "hung"),
])  # fmt: skip
def test_an_end_without_a_result_is_judged_by_exit_code_and_words(code, text, outcome):
    assert judged(code, text)[0] == outcome


def test_a_crash_is_told_by_its_last_error():
    assert judged(1, "a\nKeyError: 'x'\nZeroDivisionError: division by zero\nbye\n")[1] == "ZeroDivisionError: division by zero"


HANGS = "import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); time.sleep(600)"
ENDS = {
    "measured": "import json, sys; json.dump({'x': 1}, open(sys.argv[1], 'w'))",
    "refused": "import json, sys; json.dump({'error': 'no'}, open(sys.argv[1], 'w')); sys.exit(1)",
    "out of host memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)); x = bytearray(1 << 30)",
    "crashed": "1 / 0",
    "hung": HANGS,
}


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ENDS)
def test_whatever_becomes_of_an_attempt_it_is_told_and_nothing_is_left_behind(outcome, tmp_path):
    processes.check_allowed()
    command = [sys.executable, "-c", ENDS[outcome], str(tmp_path / "result.json")]
    before = set(psutil.Process().children(recursive=True))  # what other tests have started
    found = watched(command, dict(os.environ), tmp_path / "result.json", 2.5 if outcome == "hung" else 60, tmp_path / "logs" / "x.txt")
    assert found.outcome == outcome and (found.result == {"x": 1}) == (outcome == "measured")
    assert not [p for p in set(psutil.Process().children(recursive=True)) - before if p.is_running() and p.status() != "zombie"]
    others = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and "import time; time.sleep(600)" in p.info["cmdline"]]
    assert not [p for p in others if p.status() != "zombie"]


def result(size: int) -> dict:
    return {"tokens_per_second_per_gpu": 100 * size / (size + 3) - (size > 20), "peak_memory_gib": 2 + size / 2}


def test_the_largest_micro_batch_is_found_by_doubling_and_halving_and_the_fastest_beside_it():
    def one(size: int) -> Attempt:
        return Attempt("measured", "", result(size), 1) if size <= 23 else Attempt("out of device memory", "CUDA", None, 1)

    found = search.find(one)
    assert 21 <= found.largest <= 23 and found.fastest in found.tried and found.tried[32].outcome == "out of device memory"
    assert search.find(lambda size: Attempt("crashed", "", None, 1)).largest == 0
    assert found.words == f"largest micro-batch that fits: {found.largest}; fastest: {found.fastest}"
    endless = search.find(lambda size: Attempt("measured", "", {"tokens_per_second_per_gpu": size, "peak_memory_gib": 1.0}, 1), most=8)
    assert endless.words == "largest micro-batch that fits: 8, the largest that is tried; fastest: 8"


def test_on_a_shared_memory_a_size_that_would_not_fit_is_not_tried():
    tried = []

    def one(size: int) -> Attempt:
        tried.append(size)
        return Attempt("measured", "", result(size), 1)

    found = search.find(one, available=lambda: 10.0)
    assert max(tried) <= 16 and found.largest == max(tried) and any(a.outcome == "would not fit" for a in found.tried.values())


def test_a_table_says_machine_versions_commit_and_interconnect_and_how_each_ended():
    about = {"title": "t", "command": "c", "machine": "m", "interconnect": "i", "commit": "k", "date": "d", "versions": {"torch": "2"}}
    rows = [page.row(("micro_batch=1",), "measured", "", None), page.row(("micro_batch=2",), "crashed", "a|b", None)]
    text = page.markdown(about, rows)
    assert all(word in text for word in ("machine: m", "interconnect: i", "commit: k", "torch 2", "| 2 | crashed | a/b |"))


# ---- two results


def report(path, seconds: list[float], times: list[float] | None = None, **other) -> object:
    runs = [{"median": 1 / s, "time": t, "steps": [{"seconds": s} for s in seconds]} for s, t in zip(seconds, times or range(len(seconds)))]
    job = {"size": "1m", "layers": None, "shards": None, "mean_tokens": 654}
    whole = {
        "recipe": {"micro_batch": 1, "name": "x"},
        "machine": "m",
        "device": "cpu",
        "ranks": 1,
        "versions": {"torch": "2"},
        "commit": "c",
    }
    path.write_text(json.dumps(whole | {"job": job, "runs": runs} | other))
    return path


def test_a_regression_is_judged_by_pairs_of_runs(tmp_path):
    noise = [1.0, 1.3, 0.9, 1.1, 1.2]  # what the machine did, the same for both of a pair
    a = report(tmp_path / "a.json", noise, [0, 2, 4, 6, 8])
    slower = report(tmp_path / "b.json", [s * f for s, f in zip(noise, (1.1, 1.09, 1.11, 1.1, 1.1))], [1, 3, 5, 7, 9])
    same = report(tmp_path / "c.json", [s * f for s, f in zip(noise, (1.001, 0.999, 1.0, 1.0, 1.001))], [1, 3, 5, 7, 9])
    loud = report(tmp_path / "d.json", [s * f for s, f in zip(noise, (1.5, 0.8, 1.2, 0.7, 1.3))], [10, 11, 12, 13, 14])
    assert paired.compare(a, slower)["verdict"] == "slower" and paired.compare(slower, a)["verdict"] == "faster"
    assert paired.compare(a, same)["verdict"] == "same" and "mind" not in paired.compare(a, same)
    found = paired.compare(a, loud)
    assert found["verdict"] == "undecided" and "not taken in turn" in found["mind"] and len(found["rows"]) == 5


def test_one_run_each_is_compared_step_by_step_and_says_what_that_leaves_out(tmp_path):
    for name, factor in (("a", 1.0), ("b", 1.2)):
        steps = [{"seconds": s * factor} for s in (1.0, 1.01, 0.99, 1.0)]
        report(tmp_path / f"{name}.json", [1], runs=[{"median": 1 / factor, "time": 0, "steps": steps}])
    found = paired.compare(tmp_path / "a.json", tmp_path / "b.json")
    assert found["verdict"] == "slower" and "between two starts" in found["mind"]


@pytest.mark.parametrize("other, said", [
    ({"machine": "n"}, "machine m and n"), ({"ranks": 2}, "ranks 1 and 2"), ({"recipe": {"micro_batch": 2, "name": "x"}}, "micro_batch=1 and 2"),
])  # fmt: skip
def test_results_of_another_machine_or_recipe_are_not_comparable(tmp_path, other, said):
    a, b = report(tmp_path / "a.json", [1]), report(tmp_path / "b.json", [1], **other)
    with pytest.raises(BenchError, match=f"not comparable: {said}"):
        paired.compare(a, b)


def test_the_interval_of_pairs_is_students():
    mean, low, high = paired.interval([math.exp(x) for x in (0.0, 0.1, 0.2)])
    half = 4.303 * 0.1 / math.sqrt(3)
    assert [math.log(x) for x in (mean, low, high)] == pytest.approx([0.1, 0.1 - half, 0.1 + half])


def test_time_that_was_sent_beside_computing_is_what_both_spans_have_in_common():
    assert united([(5, 7), (0, 2), (1, 3)]) == [(0, 3), (5, 7)]
    assert common([(0, 3), (5, 7)], [(2, 6)]) == [(2, 3), (5, 6)] and common([(0, 1)], [(1, 2)]) == []


@pytest.mark.soak
def test_a_real_sweep_goes_past_what_fails_and_goes_on_where_it_was_cut(tmp_path):
    command = [
        sys.executable,
        "launch/benchmark.py",
        "train",
        "--size",
        "1m",
        "--seq-len",
        "32",
        "--steps",
        "1",
        "--warmup",
        "0",
        "--no-phases",
    ]
    command += ["--out", tmp_path, "--json", tmp_path / "all.json", "--sweep", "micro_batch=1,2", "attention=sdpa,flash"]
    first = processes.start(command)
    processes.wait_until(lambda: len(list(tmp_path.glob("results/*.json"))) >= 1, first)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGTERM
    begun, there = time.time(), {p.name for p in tmp_path.glob("results/*.json")}
    done = processes.run(command)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert [row["outcome"] for row in rows] == ["measured", "refused", "measured", "refused"], rows
    assert there and all((tmp_path / "results" / name).stat().st_mtime < begun for name in there)  # taken, not measured again
    assert (tmp_path / "sweep.png").stat().st_size > 5000 and "| refused |" in (tmp_path / "table.md").read_text()
    assert Job().to_dict().keys() == json.loads((tmp_path / "results" / next(iter(there))).read_text())["job"].keys()
