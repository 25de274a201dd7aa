"""A file is whole or not there."""

import hashlib
import os

import pytest

from data_tools.files.atomic import sha256_file, write_atomically


def test_what_is_written_is_there_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a"
    for content in (b"first", b"second" * 1_000_000, b""):
        write_atomically(path, content)
        assert path.read_bytes() == content and os.listdir(tmp_path) == ["a"]
        assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_atomically(path, b"kept")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"lost")
    assert path.read_bytes() == b"kept" and os.listdir(tmp_path) == ["a"]
