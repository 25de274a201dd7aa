"""What a terminal shows: whole lines above one bar, at any width; what a file gets: whole lines with their times, and no bar."""

import contextlib
import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from train.world import voice
from train.world.output import hush, keep_log, lasting
from train.world.voice import Bar, note, progress, say, waiting


def shown(raw: str, columns: int) -> list[str]:
    """The lines that stand on a terminal after it was sent `raw`."""
    lines, row, column = [[]], 0, 0
    for piece in re.findall(r"\x1b\[A|.|\n", raw, re.DOTALL):
        if piece == "\x1b[A":
            row -= 1
        elif piece == "\r":
            column = 0
        elif piece == "\n":
            row, column = row + 1, 0
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(lines) <= row:
                lines.append([])
            lines[row] += " " * (column + 1 - len(lines[row]))
            lines[row][column] = piece
            column += 1
        while len(lines) <= row:
            lines.append([])
    return ["".join(line).rstrip() for line in lines]


def on_terminal(monkeypatch, columns: int, work: Callable[[], None]) -> str:
    """All that was sent to a terminal of that width while the work was done."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    got: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # its other end is closed
            while piece := os.read(reading, 65536):
                got.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with open(writing, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(sys, "stderr", terminal)
        with lasting():
            work()
        terminal.flush()
    reader.join(10)
    os.close(reading)
    return b"".join(got).decode().replace("\r\n", "\n")


def a_run(log=None) -> None:
    if log:
        keep_log(log)
    bar = Bar("", 3, "step")
    for k in (1, 2, 3):
        bar.advance(1)
        say(f"step {k}/3  loss 4.2530  norm 3.594  100 tok/s", f"step {k}/3  loss 4.2530", f"step {k}/3")
        with progress("evaluating", 4, "row") as advance:
            for _ in range(4):
                advance(1)
        print(f"from a thread {k}", end="", file=sys.stderr)
        print(" and its end", file=sys.stderr)
    bar.close()
    say("done")


@pytest.mark.parametrize(
    "columns, form", [(200, "  loss 4.2530  norm 3.594  100 tok/s"), (40, "  loss 4.2530"), (31, "  loss 4.2530"), (25, "")]
)
def test_lines_stand_whole_above_the_bar_at_any_width(monkeypatch, tmp_path, columns, form):
    monkeypatch.setenv("TERM", "xterm")
    raw = on_terminal(monkeypatch, columns, lambda: a_run(tmp_path / "log.txt"))
    stamped = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in shown(raw, columns) if line]
    ends = [line for line in stamped if line != "from a thread 1 and its" and line != "end"]
    wanted = [line for k in (1, 2, 3) for line in (f"step {k}/3{form}", f"from a thread {k} and its end")]
    assert columns == 25 or ends == [*wanted, "done"], shown(raw, columns)
    assert [line for line in stamped if line.startswith("step")] == [f"step {k}/3{form}" for k in (1, 2, 3)]
    assert ("%|" in raw or "3/3 [" in raw) == (columns >= voice.NARROWEST)
    logged = [line.split(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert logged[0] == "step 1/3  loss 4.2530  norm 3.594  100 tok/s" and logged[1] == "from a thread 1 and its end" and len(logged) == 7


def test_a_dumb_terminal_and_a_file_get_lines_alone(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")
    raw = on_terminal(monkeypatch, 80, a_run)
    assert "\r" not in raw and "\x1b" not in raw and raw.count("step") == 3
    with lasting():
        a_run()
    out, err = capsys.readouterr()
    assert re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (step \d/3  loss 4.2530  norm 3.594  100 tok/s|done)\n){4}", out), out
    assert "%" not in err and len(err.splitlines()) == 3


def test_long_work_is_told_of_again_where_no_bar_is_seen(monkeypatch, capsys):
    monkeypatch.setattr(voice, "AGAIN_SECONDS", 0.02)
    with lasting():
        with waiting("importing", " (a while)"):
            time.sleep(0.2)
        with progress("loading", 10, "B") as advance:
            advance(4)
            time.sleep(0.05)
            advance(1)
    said = capsys.readouterr().out
    assert "importing (a while)\n" in said and "still importing (0m00s)" in said and "loading: 50%, 0m00s left" in said


def test_libraries_words_are_in_the_log_alone_and_their_errors_are_seen(tmp_path, capsys):
    before = warnings.showwarning
    with lasting():
        library = logging.getLogger("a library")
        library.addHandler(logging.StreamHandler(sys.stdout))
        hush()
        hush()
        keep_log(tmp_path / "log.txt")
        print("built successfully")
        library.warning("an old option")
        library.error("the disk is gone")
        warnings.warn("soon deprecated", FutureWarning, stacklevel=1)
        note("an item of a plan")
        say("step 1")
        print("Traceback of a thread", file=sys.stderr)
    assert warnings.showwarning is before
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and out.endswith(" step 1\n")
    assert err == "a library: the disk is gone\nTraceback of a thread\n"
    log = (tmp_path / "log.txt").read_text()
    for said in (
        "built successfully",
        "an old option",
        "the disk is gone",
        "soon deprecated",
        "an item of a plan",
        " step 1",
        "Traceback of",
    ):
        assert log.count(said) == 1, (said, log)
