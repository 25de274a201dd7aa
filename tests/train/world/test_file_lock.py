"""One holder at a time, and no file left."""

import contextlib
import fcntl
import threading

import pytest

from train.world.file_lock import hold


def test_one_at_a_time_holds_a_lock_that_is_removed_and_made_again_all_the_while(tmp_path):
    path, inside, together, held = tmp_path / "folder" / ".lock", [], [], []

    def often() -> None:
        own = 0
        while own < 20:  # as often as it takes: how often each comes in is the machine's
            with contextlib.suppress(BlockingIOError), hold(path):
                inside.append(1)
                together.append(len(inside))
                held.append(1)
                inside.pop()
                own += 1

    threads = [threading.Thread(target=often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 160 and set(together) == {1}
    assert not path.exists()


def test_the_second_is_told_who_holds_it_and_a_file_of_a_killed_holder_is_taken(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("process 1 on elsewhere, long dead and with a longer name")
    with hold(path):
        with pytest.raises(BlockingIOError, match=r"^\[Errno \d+\] process \d+ on (?!elsewhere)[^ ]+: "), hold(path):
            pass
        assert path.exists()
    assert not path.exists()
    with hold(path) as lock:
        path.unlink()  # by hand, and another has come since
        with hold(path):
            lock.close()
            assert path.exists()


def test_who_opened_the_file_before_its_holder_removed_it_holds_one_that_others_see(tmp_path, monkeypatch):
    path, flock = tmp_path / ".lock", fcntl.flock
    first = hold(path)

    def late(*words) -> None:
        first.close()
        flock(*words)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold(path):
        assert path.exists()
        with pytest.raises(BlockingIOError), hold(path):
            pass
