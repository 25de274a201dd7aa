"""kill -9 at random moments of `prepare arxiv`, then the same command: the same bytes, and finished tasks stay finished."""

import contextlib
import gzip
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.made import processes
from tests.made.papers import paper, record, sentences, tar, tree, write_lines
from tests.made.where import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments for a run of several tasks in every stage, duplicates and refused papers among them."""
    place = tmp_path_factory.mktemp("inputs")
    rows = [record(number) for number in range(240)] + [
        record(7, abstract=sentences("longer", 6)),
        record(300, abstract=record(8)["abstract"]),
    ]
    files = [write_lines(place / f"{k}.jsonl.gz", rows[k::6]) for k in range(6)]
    (place / "bulk.tar").write_bytes(tar({f"2301/{record(n)['id']}.gz": gzip.compress(paper(n)) for n in range(0, 60, 3)}))
    (place / "loose").mkdir()
    for number in range(1, 140, 2):
        data = gzip.compress(tar({"ms.tex" if number % 5 else "/ms.tex": paper(number)}))
        (place / "loose" / f"{record(number)['id']}.tar.gz").write_bytes(data)
    return ["--metadata", *map(str, files), "--latex", str(place / "bulk.tar"), str(place / "loose"), "--buckets", "4", "--heldout", "0.2"]


def start(words: list[str], out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "data_tools.prepare", "arxiv", *words, "--out", str(out), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return processes.start(command, env=environment)


def finish(words: list[str], out: Path) -> None:
    process = start(words, out)
    _, error = process.communicate(timeout=processes.SECONDS)
    assert process.returncode == 0, error


def finished_tasks(out: Path) -> dict[str, int]:
    """Results of finished tasks, by when they were written."""
    return {
        str(path.parent.parent / "results" / f"{path.name}.json"): os.stat(path.parent.parent / "results" / f"{path.name}.json").st_mtime_ns
        for path in (out / ".work" / "tasks").glob("*/completions/*")
    }


def finished(out: Path) -> int:
    """How many tasks are finished now; none when all is done and cleared away."""
    with contextlib.suppress(FileNotFoundError):
        return len(list((out / ".work" / "tasks").glob("*/completions/*")))
    return 0


@pytest.fixture(scope="module")
def undisturbed(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The files of a run that nobody killed, and its tasks."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    process, tasks = start(inputs, out), 0

    def ended() -> bool:
        nonlocal tasks
        tasks = max(tasks, finished(out))
        return process.poll() is not None

    processes.wait_until(ended)
    assert process.returncode == 0, process.stderr.read()
    return tree(out), tasks


def kill_and_go_on(inputs: list[str], undisturbed: tuple[dict[str, bytes], int], place: Path, kills: int, seed: int) -> int:
    """Runs killed at random moments until `kills` of them fell; every run is then finished and compared. Returns how many tasks were kept."""
    draw, fallen, kept, run = random.Random(seed), 0, 0, 0
    expected, tasks = undisturbed
    while fallen < kills:
        out = place / f"run{run}"
        run += 1
        for _ in range(draw.choice([1, 1, 2, 3])):
            before = finished_tasks(out)
            process = start(inputs, out)
            moment = draw.randrange(tasks)
            processes.wait_until(lambda out=out, moment=moment, process=process: process.poll() is not None or finished(out) >= moment)
            try:
                process.wait(draw.uniform(0, 0.3))
            except subprocess.TimeoutExpired:
                fallen += 1
                if draw.random() < 0.5:
                    processes.end(process)  # the whole job, as a scheduler does
                else:
                    process.kill()  # only the front: its workers must not write on
                process.communicate(timeout=processes.SECONDS)
            else:
                process.communicate(timeout=processes.SECONDS)
                assert process.returncode == 0
                break
            if (out / "provenance.json").exists():  # finished; the kill fell into the clearing of what it needed
                assert tree(out).items() >= expected.items()
                break
            after = finished_tasks(out)
            assert before.items() <= after.items(), "a finished task was done again"
            kept += len(after)
        finish(inputs, out)
        assert tree(out) == expected
    return kept


def test_a_killed_run_goes_on_to_the_same_bytes(inputs: list[str], undisturbed: tuple[dict[str, bytes], int], tmp_path: Path) -> None:
    assert len(undisturbed[0]) == 14
    assert kill_and_go_on(inputs, undisturbed, tmp_path, kills=3, seed=2) > 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills_lose_nothing(inputs: list[str], undisturbed: tuple[dict[str, bytes], int], tmp_path: Path) -> None:
    assert kill_and_go_on(inputs, undisturbed, tmp_path, kills=50, seed=7) > 200


def test_two_commands_on_one_folder_do_not_mix(inputs: list[str], undisturbed: tuple[dict[str, bytes], int], tmp_path: Path) -> None:
    first = start(inputs, tmp_path / "out")
    processes.wait_until((tmp_path / "out" / ".work" / "plan.json").exists, first)
    second = start(inputs, tmp_path / "out")
    _, error = second.communicate(timeout=processes.SECONDS)
    assert second.returncode == 1 and f"process {first.pid} on " in error and "is writing here; wait for it" in error
    first.communicate(timeout=processes.SECONDS)
    assert first.returncode == 0 and tree(tmp_path / "out") == undisturbed[0]


def test_an_unfinished_run_goes_on_only_with_its_own_command(inputs: list[str], tmp_path: Path) -> None:
    process = start(inputs, tmp_path / "out")
    processes.wait_until((tmp_path / "out" / ".work" / "plan.json").exists, process)
    processes.end(process)
    other = start([*inputs, "--similarity", "0.9"], tmp_path / "out")
    _, error = other.communicate(timeout=processes.SECONDS)
    assert (
        other.returncode == 1
        and "unfinished work of another command" in error
        and "similarity: 0.8 there, 0.9 here" in error
        and "Traceback" not in error
    )
