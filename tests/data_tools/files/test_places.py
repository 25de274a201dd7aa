"""Files here or on another filesystem are described alike."""

import hashlib

import fsspec
import pytest

from data_tools.files.places import PlaceError, content_hash, describe, is_remote, sha256_of


def test_a_file_is_described_wherever_it_lies(tmp_path):
    content = b"stars" * 100_000
    (tmp_path / "a").write_bytes(content)
    with fsspec.open("memory://places/a", "wb") as file:
        file.write(content)
    for place in (str(tmp_path / "a"), f"file://{tmp_path}/a", "memory://places/a"):
        assert sha256_of(place) == hashlib.sha256(content).hexdigest()
        assert describe(place)["bytes"] == len(content), place
    assert is_remote("memory://places/a") and not is_remote(str(tmp_path / "a"))


def test_what_cannot_be_reached_is_named(tmp_path):
    with pytest.raises(PlaceError, match="nosuch"):
        sha256_of("nosuch://a/b")
    assert content_hash(str(tmp_path / "none")) is None and content_hash("user/hub-set") is None
