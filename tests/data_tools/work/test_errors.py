"""Whose fault an error is: one message for the user's, a traceback for the program's own."""

import argparse
import errno
import json
from pathlib import Path

import pyarrow as pa
import pytest

from data_tools.prepare import call
from data_tools.tokens.tokenizer import TokenizerError
from data_tools.work.errors import is_users_fault, message
from data_tools.work.ledger import WorkError, describe_error
from train.data.mixture import MixtureError

FOREIGN = [ValueError("no"), json.JSONDecodeError("no", "{", 1), UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "no"), pa.ArrowInvalid("no")]


def test_only_an_error_of_a_class_of_this_project_is_the_users():
    assert [is_users_fault(kind("a.jsonl: empty; fill it")) for kind in (WorkError, TokenizerError, MixtureError)] == [True] * 3
    assert [is_users_fault(error) for error in [*FOREIGN, RuntimeError("boom"), KeyError("id")]] == [False] * 6


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
def test_another_librarys_error_keeps_its_traceback_and_its_log(error):
    def run(args: argparse.Namespace) -> None:
        raise error

    with pytest.raises(type(error)):
        call(run, argparse.Namespace(command="corpus"))
    assert f"task 3 failed with {type(error).__name__}" in describe_error(error, Path("work"), 3)


def test_what_the_system_says_of_a_path_is_one_message_with_a_remedy(tmp_path):
    for wrong in (lambda: open(tmp_path), lambda: open(tmp_path / "no"), lambda: (tmp_path / "no" / "x").mkdir(), tmp_path.mkdir):
        with pytest.raises(OSError) as caught:
            wrong()
        said = message(caught.value, "OUT", "; again")
        assert said.startswith(str(tmp_path)) and "; give " in said and said.endswith("; again"), said
    assert message(OSError(errno.ENOSPC, "No space left on device"), "OUT").startswith("OUT: No space left on device; make room there")
    assert message(OSError(errno.EIO, "Input/output error")) is None and message(ValueError("no")) is None
