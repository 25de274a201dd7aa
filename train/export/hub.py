"""A release folder → a repository on the Hugging Face Hub, by its own client; what is there already is not sent again.

1. who pushes is known to the client (`hf auth login`, or HF_TOKEN), never to a command line
2. the repository is made where there is none; its tree tells what is there already, by hash
3. large files go first, one by one; what a break leaves is found again by its hash, on the server's side
4. one commit makes all of it visible at once, and removes weights of an older release; where its answer is lost, the tree is asked
5. the tree is read again and compared
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.world.places import sha256

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
KEPT_BACK = ("export.json",)  # names folders of the machine it was made on
WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")
ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 6, 2.0, 60.0  # beside the client's own
Say = Callable[[str], None]


class HubError(ValueError):
    """What keeps a release from the Hub, and what to do."""


@dataclass(frozen=True)
class Piece:
    """A file of the release."""

    name: str
    file: Path
    bytes: int

    def is_there(self, there: dict[str, Any]) -> bool:
        """Whether the repository holds these very bytes under this name."""
        found = there.get(self.name)
        if found is None or found.size != self.bytes:
            return False
        if found.lfs:
            return found.lfs.sha256 == sha256(self.file)
        content = self.file.read_bytes()
        return found.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def pieces(folder: Path) -> list[Piece]:
    """All files of a release that go to the Hub, by name."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    return [Piece(p.relative_to(folder).as_posix(), p, p.stat().st_size) for p in files if p.name not in KEPT_BACK]


def push(folder: Path, repository: str, private: bool, api: Any, say: Say) -> str:
    """Returns the repository's address once all of it is there.

    Args:
        api: a huggingface_hub.HfApi.
    Raises:
        HubError: what was sent stays on the server, and the same command goes on.
    """
    if not NAME.fullmatch(repository):
        raise HubError(f"--push {repository}: a repository is ORG/NAME, letters, digits, '.', '_' and '-'")
    again = _Again(repository, say)
    again(lambda: api.create_repo(repository, private=private, exist_ok=True))
    wanted = pieces(folder)
    there = again(lambda: _tree(api, repository))
    left = [piece for piece in wanted if not piece.is_there(there)]
    stale = sorted(name for name in there if WEIGHTS.fullmatch(name) and name not in {piece.name for piece in wanted})
    if kept := len(wanted) - len(left):
        say(f"{kept} of {len(wanted)} files are there already")
    if left or stale:
        _commit(api, repository, left, stale, again, say)
    there = again(lambda: _tree(api, repository))
    if wrong := [piece.name for piece in wanted if not piece.is_there(there)]:
        raise HubError(
            f"{repository}: {', '.join(wrong[:5])} on the Hub {'is' if len(wrong) == 1 else 'are'} not what was sent; push again"
        )
    return f"{api.endpoint}/{repository}"


def _commit(api: Any, repository: str, left: list[Piece], stale: list[str], again: _Again, say: Say) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    adds = []
    for number, piece in enumerate(left, 1):
        say(f"{number}/{len(left)} {piece.name} ({piece.bytes:,} bytes)")
        add = CommitOperationAdd(piece.name, piece.file)
        again(lambda add=add: api.preupload_lfs_files(repository, [add], free_memory=False))
        adds.append(add)
    operations = [*adds, *(CommitOperationDelete(name) for name in stale)]

    def commit() -> None:
        there = _tree(api, repository)
        if all(piece.is_there(there) for piece in left) and not any(name in there for name in stale):
            return  # the one before was made, only its answer was lost
        api.create_commit(
            repository, operations, commit_message="Publish the model" if not stale else "Publish the model, in place of an older one"
        )

    again(commit)


def _tree(api: Any, repository: str) -> dict[str, Any]:
    """Every file of the repository, by name."""
    from huggingface_hub.hf_api import RepoFile

    return {one.path: one for one in api.list_repo_tree(repository, recursive=True) if isinstance(one, RepoFile)}


class _Again:
    """Calls what a broken connection or a server's fault may have ended, some times over; says what cannot be mended so."""

    def __init__(self, repository: str, say: Say):
        self._repository, self._say = repository, say

    def __call__(self, action: Callable[[], Any]) -> Any:
        from huggingface_hub.errors import HfHubHTTPError

        of_network = HfHubHTTPError.__bases__[0]  # of the HTTP library that the client is built on
        wait = FIRST_WAIT
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return action()
            except (OSError, RuntimeError, ValueError, of_network) as error:  # the client wraps what a transfer ended in
                if isinstance(error, HubError):
                    raise
                status, passing = _why(error)
                if not passing:
                    if status is None:
                        raise
                    raise HubError(_remedy(self._repository, status, error)) from None
                if attempt == ATTEMPTS:
                    raise HubError(f"{self._repository}: {_words(error)}; what was sent is kept there: the same command goes on") from None
                self._say(f"{_words(error)}; again in {wait:.0f} s")
                time.sleep(wait)
                wait = min(LONGEST_WAIT, 2 * wait)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _why(error: BaseException) -> tuple[int | None, bool]:
    """The HTTP status, where there is one, and whether trying again may help."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if any(isinstance(cause, OfflineModeIsEnabled) for cause in _causes(error)):
        raise HubError("HF_HUB_OFFLINE is set, and nothing may be sent; unset it to push") from None
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status, status in (408, 425, 429) or status >= 500
    # a broken connection: an error of the HTTP library, or of the system
    network = any(type(c).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "ssl") for c in _causes(error))
    return None, network or any(isinstance(c, (ConnectionError, TimeoutError)) for c in _causes(error))


def _words(error: BaseException) -> str:
    last = list(_causes(error))[-1]
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200] + (f" ({type(last).__name__})" if last is not error else "")


def _remedy(repository: str, status: int, error: BaseException) -> str:
    owner = repository.partition("/")[0]
    remedies = {
        401: "the Hub does not know you: hf auth login, or set HF_TOKEN",
        403: f"you may not write there; ask {owner} for the right, or take a token that may write",
        404: f"there is no {owner} that you could write to; check the name, or log in by hf auth login",
        413: "a file is larger than the Hub takes",
    }
    return f"--push {repository}: {remedies.get(status, _words(error))} (HTTP {status})"
