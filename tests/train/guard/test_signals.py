"""Signals ask for a stop after the step at hand; what they meant before comes back with the end of the guard."""

import os
import signal

import pytest
import torch

from train.guard.signals import SIGNALS, Guard
from train.world.ranks import World

ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_for_a_stop_and_says_so(number, capsys):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with Guard(ALONE) as guard:
            assert not guard.stop_wanted()
            os.kill(os.getpid(), number)
            assert guard.stop_wanted() and guard.signal == signal.Signals(number).name
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert f"{signal.Signals(number).name}: saving and stopping after this step" in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Guard(ALONE), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_under_nohup_the_terminals_end_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Guard(ALONE) as guard:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not guard.stop_wanted()
    finally:
        signal.signal(signal.SIGHUP, before)
