"""A release reaches the Hub whole, once, whatever breaks on the way, and says nothing of who sends it."""

import time

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import HfApi

from tests.made.hub import PART, Hub, serving
from train.export.hub import HubError, pieces, push

REPOSITORY = "my-org/astro-7b"


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    random = np.random.default_rng(3)
    for name, size in (
        ("README.md", 700),
        ("config.json", 300),
        ("model-00001-of-00002.safetensors", 3 * PART - 17),
        ("model-00002-of-00002.safetensors", 30_000),
    ):
        (folder / name).write_bytes(b"---\nlicense: mit\n---\n" if name == "README.md" else random.bytes(size))
    (folder / "export.json").write_text('{"request": "/home/me/secret-place"}')
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Waits that a person would not sit through cut short; the storage of plain HTTP; a network that may be asked."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


def send(release, hub: Hub, address: str, said: list[str] | None = None, token: str | None = None) -> str:
    return push(release, REPOSITORY, False, HfApi(endpoint=address, token=token or hub.known), (said if said is not None else []).append)


def held(hub: Hub) -> dict[str, bytes]:
    return {name: content for name, (_, content) in hub.repositories[REPOSITORY].items()}


def whole(release) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in release.iterdir() if p.is_file() and p.name != "export.json"}


def test_a_release_goes_whole_in_one_commit_and_a_second_push_sends_nothing(release, quick):
    hub, said = Hub(), []
    with serving(hub) as address:
        assert send(release, hub, address) == f"{address}/{REPOSITORY}"
        assert held(hub) == whole(release) and len(hub.commits) == 1 and hub.private == {REPOSITORY: False}
        assert len(hub.parts) == 3 and sum(line.startswith("PUT") for line in hub.asked) == 4
        hub.asked.clear()
        send(release, hub, address, said)
    assert said == ["4 of 4 files are there already"] and len(hub.commits) == 1
    assert not [line for line in hub.asked if line.startswith("PUT") or "commit" in line]
    assert [p.name for p in pieces(release)] == sorted(whole(release))


# where it breaks, and how: each is mended without a second commit, and nothing is sent twice that had arrived
BREAKS = [
    (where, what)
    for where in (
        "POST /api/repos/create",
        "POST .*preupload",
        "POST .*batch",
        "PUT .*/part/2",
        "POST .*/complete",
        "PUT /lfs/[0-9a-f]+$",
        "GET .*tree",
        "POST .*commit/main",
    )
    for what in ("500", "cut", "lost")
]


def test_a_fault_anywhere_is_mended_and_makes_no_second_commit(release, quick):
    looked = 0
    for where, what in BREAKS:
        hub = Hub()
        hub.faults = [(where, what)] * (2 if what == "500" else 1)
        with serving(hub) as address:
            send(release, hub, address)
        looked += 1
        assert hub.faults == [], (where, what)
        assert held(hub) == whole(release) and len(hub.commits) == 1, (where, what, hub.commits)
    assert looked == 24


def test_a_push_that_was_given_up_goes_on_where_it_stopped(release, quick):
    hub, said = Hub(), []
    with serving(hub) as address:
        hub.faults = [("PUT /lfs/[0-9a-f]+$", "500")] * 1000
        with pytest.raises(HubError, match="the same command goes on"):
            send(release, hub, address)
        assert hub.commits == [] and len(hub.objects) == 1
        hub.faults.clear()
        hub.asked.clear()
        send(release, hub, address, said)
    assert held(hub) == whole(release) and sum(line.startswith("PUT") for line in hub.asked) == 1


def test_a_newer_release_replaces_what_changed_and_removes_weights_that_are_no_longer(release, quick):
    hub = Hub()
    with serving(hub) as address:
        send(release, hub, address)
        (release / "model-00001-of-00002.safetensors").unlink()
        (release / "model-00002-of-00002.safetensors").rename(release / "model-00001-of-00001.safetensors")
        hub.repositories[REPOSITORY][".gitattributes"] = ("regular", b"theirs")
        send(release, hub, address)
    assert held(hub) == {**whole(release), ".gitattributes": b"theirs"}
    gone = ["deletedFile model-00001-of-00002.safetensors", "deletedFile model-00002-of-00002.safetensors"]
    assert sorted(hub.commits[1]) == [*gone, "lfsFile model-00001-of-00001.safetensors"]


@pytest.mark.parametrize(
    "repository, token, said",
    [
        ("my-org/x", "hf_wrong", "hf auth login"),
        ("theirs/x", None, "ask theirs for the right"),
        ("noslash", None, "ORG/NAME"),
        ("a/b/c", None, "ORG/NAME"),
        ("../x", None, "ORG/NAME"),
    ],
)
def test_what_cannot_be_mended_is_told_once_with_a_remedy(release, quick, repository, token, said):
    hub = Hub()
    with serving(hub) as address, pytest.raises(HubError, match=said) as told:
        push(release, repository, False, HfApi(endpoint=address, token=token or hub.known), print)
    assert "\n" not in str(told.value) and "hf_" not in str(told.value) and hub.commits == []
