"""Signals ask for a stop after the step at hand; what they meant before comes back with the end of the listener."""

import os
import signal

import pytest
import torch

from tests.made.processes import wait_until
from train.guard.limits import Limits
from train.guard.signals import SIGNALS, Stops
from train.world.ranks import World

ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_for_a_stop_and_says_so(number, capsys):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with Stops() as stops:
            stops.train(ALONE)
            assert not stops.wanted()
            os.kill(os.getpid(), number)
            wait_until(stops.wanted)
            assert stops.cause == signal.Signals(number).name and stops.agreed(ALONE)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert f"{signal.Signals(number).name}: saving and stopping after this step" in capsys.readouterr().err


def test_what_is_said_is_what_will_be_done(capsys):
    for phase, said in (("evaluation", "cutting the evaluation, saving"), ("saving", "stopping when this save is complete")):
        with Stops() as stops:
            stops.train(ALONE)
            stops.phase = lambda now=phase: now
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(stops.wanted)
        assert f"SIGUSR1: {said}" in capsys.readouterr().err


def test_under_nohup_the_terminals_end_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stops() as stops:
            stops.train(ALONE)
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(stops.wanted)
            assert stops.cause == "SIGUSR1"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("measured", "stands", "saves"),
    [(10.0, "step_000002", True), (40.0, "step_000002", False), (40.0, None, True), (None, "step_000002", True)],
)
def test_a_save_is_begun_when_what_one_took_fits_the_grace_and_when_nothing_else_stands(measured, stands, saves):
    with Stops() as stops:
        stops.limits = Limits(grace_seconds=30)
        stops.train(ALONE)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(stops.wanted)
        stop = stops.agree(ALONE, measured, stands)
    assert stop.cause == "SIGTERM" and stop.save == saves
    assert saves or "takes about 40 s, and 30 s of guard.grace_seconds=30 were left" in stop.why_not


def test_no_kill_follows_a_sigusr1(capsys):
    with Stops() as stops:
        stops.limits = Limits(grace_seconds=30)
        stops.train(ALONE)
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(stops.wanted)
        assert stops.agree(ALONE, 4000.0, "step_000002").save


def test_a_time_limit_stops_while_a_step_and_a_save_still_fit(capsys):
    with Stops() as stops:
        stops.train(ALONE)
        stops.limits = Limits(ends=(("guard.minutes=10", stops.begun + 600),))
        stops.needed = lambda: 100.0
        assert not stops.wanted()
        stops.needed = lambda: 601.0
        assert stops.agreed(ALONE) and stops.cause == "guard.minutes=10"
        assert stops.agree(ALONE, 300.0, "step_000002").save
        assert not stops.agree(ALONE, 500.0, "step_000002").save
    assert "guard.minutes=10: saving and stopping" in capsys.readouterr().err


def test_libraries_with_signals_of_their_own_ask_for_nothing_and_take_nothing_away():
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    told, heard = os.pipe()
    os.set_blocking(heard, False)
    try:
        with Stops() as stops:
            stops.train(ALONE)
            os.kill(os.getpid(), signal.SIGALRM)
            signal.set_wakeup_fd(heard)  # as an event loop does
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(stops.wanted)
            assert stops.cause == "SIGUSR1"
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(told)
        os.close(heard)
