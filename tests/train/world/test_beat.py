"""A rank's last words are read whole by another process, and are there when the rank is not."""

import mmap

from train.world import beat
from train.world.beat import Beat, Said, said


def test_the_last_words_are_those_that_were_said():
    block = mmap.mmap(-1, beat.SIZE)
    b = Beat()
    b.phase("loading")  # before anybody listens
    assert said(block) == Said()
    b.tell(block)
    assert said(block).phase == "loading" and said(block).step == 0
    b.at_step(7)
    b.documents([f"papers/{n}" for n in range(100)], 100)
    b.checkpoint("runs/x/checkpoints/step_000005")
    b.phase("backward")
    heard = said(block)
    assert (heard.step, heard.phase, heard.meeting) == (7, "backward", False)
    assert heard.details["documents"] == [f"papers/{n}" for n in range(beat.DOCUMENTS_TOLD)] and heard.details["document_count"] == 100
    assert heard.details["checkpoint"] == "runs/x/checkpoints/step_000005"
    b.at_step(8)
    b.documents(["é" * 20_000], 1)  # too long to be told
    assert said(block).details["document_count"] == 1


def test_a_meeting_is_seen_from_within_and_every_sign_moves_the_marks():
    block = mmap.mmap(-1, beat.SIZE)
    b = Beat()
    b.tell(block)
    before = said(block)
    with b.meeting():
        within = said(block)
    after = said(block)
    assert (within.meeting, after.meeting) == (True, False)
    assert within.meetings == after.meetings == before.meetings + 1
    assert before.marks < within.marks < after.marks


def test_where_the_time_of_the_steps_went(monkeypatch):
    at = iter([0.0, 5.0, 5.5, 9.5, 13.5, 13.75, 14.75, 15.0])  # seconds at which each phase begins
    monkeypatch.setattr(beat.time, "perf_counter", lambda: next(at))
    b = Beat()
    assert b.of_steps() == ""
    b.at_step(1)  # after 5 s of starting, which are no step's
    for name in ("forward", "backward", "agreement", "optimizer", "logging", "evaluation"):
        b.phase(name)
    assert b.spent == {"starting": 5, "data": 0.5, "forward": 4, "backward": 4, "agreement": 0.25, "optimizer": 1, "logging": 0.25}
    assert b.of_steps() == "forward 40.00%, backward 40.00%, optimizer 10.00%, all else 10.00% (waiting for data 5.00%)"
