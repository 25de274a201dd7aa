"""Words that cannot be printed are kept in the log, and end nothing."""

import io
import os
import re
import sys

import pytest

from train.world.output import keep_log, lasting


def lines_of(path) -> list[str]:
    """What the log says, after looking at the times."""
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines), lines
    return [line.split(" ", 1)[1] for line in lines]


@pytest.fixture
def dead_pipe(monkeypatch):
    """stdout and stderr are pipes that nobody reads."""
    files = []
    for name in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        files.append(os.fdopen(write, "w"))
        monkeypatch.setattr(sys, name, files[-1])
    yield
    for file in files:
        file.close()  # Python flushes at its end, too: nothing is left that could fail


def test_a_dead_pipe_costs_no_word_and_no_error(tmp_path, dead_pipe):
    with lasting():
        print("before there is a log")
        keep_log(tmp_path / "log.txt")
        for k in range(3):
            print(f"step {k}", file=sys.stderr, flush=True)
        sys.stderr.write("half a ")
        sys.stderr.write("line\nand the next\n")
        os.write(sys.stdout.fileno(), b"a library writes by itself")
    assert lines_of(tmp_path / "log.txt") == ["before there is a log", "step 0", "step 1", "step 2", "half a line", "and the next"]


def test_the_log_holds_what_is_printed_but_for_progress_bars(tmp_path, capsys):
    with lasting():
        keep_log(tmp_path / "log.txt")
        sys.stderr.write("\r 10%|#   | 1/10\r 20%|##  | 2/10")
        sys.stderr.write("\r             \rstep 2  loss 3.5\n")
        print("Größe ∑")
    assert lines_of(tmp_path / "log.txt") == ["step 2  loss 3.5", "Größe ∑"]
    out, err = capsys.readouterr()
    assert out == "Größe ∑\n" and err.endswith("step 2  loss 3.5\n") and "20%" in err
    with lasting():
        keep_log(tmp_path / "log.txt")
        print("gone on")
    assert lines_of(tmp_path / "log.txt")[-1] == "gone on" and len(lines_of(tmp_path / "log.txt")) == 3


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), ValueError("I/O operation on closed file"), RuntimeError("reentrant call")]
)
def test_no_way_in_which_a_stream_can_fail_ends_the_program(tmp_path, monkeypatch, error):
    class Failing(io.StringIO):
        def write(self, text):
            raise error

        def flush(self):
            raise error

    monkeypatch.setattr(sys, "stderr", Failing())
    with lasting():
        keep_log(tmp_path / "log.txt")
        print("said", file=sys.stderr, flush=True)
    assert lines_of(tmp_path / "log.txt") == ["said"]


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    with lasting():
        keep_log(tmp_path / "missing" / "log.txt")
        print("said")
    assert capsys.readouterr().out == "said\n"


def test_the_programs_own_fault_is_in_the_log_and_still_raised(tmp_path):
    with pytest.raises(ZeroDivisionError), lasting():
        keep_log(tmp_path / "log.txt")
        raise ZeroDivisionError("division by zero")
    assert "ZeroDivisionError: division by zero" in lines_of(tmp_path / "log.txt")[-1]
