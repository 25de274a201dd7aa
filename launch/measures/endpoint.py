"""Embeddings and answers of an OpenAI-compatible endpoint, asked again where that may help; the key is read from OPENAI_API_KEY."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from train.evaluation.texts import EvaluationError

T = TypeVar("T")
ATTEMPTS = 6
TIMEOUT_SECONDS = 120
LONGEST_WAIT = 60.0  # seconds between two attempts
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # what may pass
LARGEST_REPLY = 256 * 2**20  # bytes


@dataclass(frozen=True)
class Endpoint:
    """base_url: such as http://localhost:8000/v1. model: its name there."""

    base_url: str
    model: str
    first_wait: float = 1.0

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, width) fp32. Raises EvaluationError."""
        body = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        return self._ask("embeddings", body, lambda reply: _vectors(reply, len(texts)))

    def answer(self, prompt: str, most: int) -> str:
        """What it says, in at most so many tokens, as little by chance as it can. Raises EvaluationError."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": most, "temperature": 0}
        return self._ask("chat/completions", body, _content)

    def _ask(self, path: str, body: dict[str, Any], read: Callable[[bytes], T]) -> T:
        url, said = checked_url(self.base_url, path), ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(min(LONGEST_WAIT, self.first_wait * 2 ** (attempt - 1)))
            try:
                return read(_post(url, json.dumps(body).encode()))
            except urllib.error.HTTPError as error:
                said = f"HTTP {error.code}: {_clean(error.read(2000).decode('utf-8', 'replace'))[:300].strip()}"
                if error.code not in AGAIN:
                    raise EvaluationError(f"{url}: {said}; check --endpoint, --endpoint-model and the key in OPENAI_API_KEY") from None
            except (OSError, http.client.HTTPException) as error:  # URLError, timeouts, a reply that is cut
                said = _clean(f"{type(error).__name__}: {getattr(error, 'reason', error)}")
            except (ValueError, LookupError, TypeError) as error:
                said = _clean(f"a reply of another kind ({type(error).__name__}: {error})")[:300]
        raise EvaluationError(f"{url}: {said} ({ATTEMPTS} attempts); give the same command again when it answers")


def _post(url: str, body: bytes) -> bytes:
    key = os.environ.get("OPENAI_API_KEY", "")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS) as reply:
        return reply.read(LARGEST_REPLY)


def _clean(text: str) -> str:
    key = os.environ.get("OPENAI_API_KEY", "")
    return text.replace(key, "***") if key else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key is not carried to another address."""

    def redirect_request(self, *_: object) -> None:
        return None


def _vectors(reply: bytes, count: int) -> np.ndarray:
    """By the index of each, as the interface allows any order. Raises what tells a broken reply."""
    rows = sorted(json.loads(reply)["data"], key=lambda row: row["index"])
    if [row["index"] for row in rows] != list(range(count)):
        raise ValueError(f"{len(rows)} vectors for {count} texts")
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError("vectors that are no finite numbers")
    return vectors


def _content(reply: bytes) -> str:
    content = json.loads(reply)["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise ValueError(f"content is {str(content)[:40]!r}")
    return content


def checked_url(base_url: str, what: str = "embeddings") -> str:
    """The address to post to. Raises EvaluationError, which does not repeat what may be a key."""
    parts = urllib.parse.urlsplit(base_url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EvaluationError("--endpoint: holds a name, a key or a query; give scheme, host and path only, and the key as OPENAI_API_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EvaluationError(f"--endpoint {base_url}: no http address; give one such as http://localhost:8000/v1")
    path = parts.path.rstrip("/")
    return urllib.parse.urlunsplit(parts._replace(path=f"{path.removesuffix(f'/{what}')}/{what}"))
