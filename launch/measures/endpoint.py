"""Embeddings of an OpenAI-compatible endpoint: POST /embeddings, tried again where that may help; the key is read from OPENAI_API_KEY."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

import numpy as np

from train.evaluation.texts import EvaluationError

ATTEMPTS = 6
TIMEOUT_SECONDS = 120
LONGEST_WAIT = 60.0  # seconds between two attempts
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # what may pass
LARGEST_REPLY = 256 * 2**20  # bytes


class Endpoint:
    """Called with texts, it gives their vectors (texts, width) fp32. Raises EvaluationError."""

    def __init__(self, base_url: str, model: str, first_wait: float = 1.0):
        self.url, self.model, self._first_wait = checked_url(base_url), model, first_wait
        self._key = os.environ.get("OPENAI_API_KEY", "")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        body = json.dumps({"model": self.model, "input": list(texts), "encoding_format": "float"}).encode()
        said = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(min(LONGEST_WAIT, self._first_wait * 2 ** (attempt - 1)))
            try:
                vectors = _vectors(self._post(body), len(texts))
            except urllib.error.HTTPError as error:
                said = f"HTTP {error.code}: {self._clean(error.read(2000).decode('utf-8', 'replace'))[:300].strip()}"
                if error.code not in AGAIN:
                    raise EvaluationError(f"{self.url}: {said}; check --endpoint, --endpoint-model and the key in OPENAI_API_KEY") from None
            except (OSError, http.client.HTTPException) as error:  # URLError, timeouts, a reply that is cut
                said = self._clean(f"{type(error).__name__}: {getattr(error, 'reason', error)}")
            except (ValueError, LookupError, TypeError) as error:
                said = self._clean(f"no embeddings in its reply ({type(error).__name__}: {error})")[:300]
            else:
                return vectors
        raise EvaluationError(f"{self.url}: {said} ({ATTEMPTS} attempts); give the same command again when it answers")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS) as reply:
            return reply.read(LARGEST_REPLY)

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


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


def checked_url(base_url: str) -> str:
    """The address to post to. Raises EvaluationError, which does not repeat what may be a key."""
    parts = urllib.parse.urlsplit(base_url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EvaluationError("--endpoint: holds a name, a key or a query; give scheme, host and path only, and the key as OPENAI_API_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EvaluationError(f"--endpoint {base_url}: no http address; give one such as http://localhost:8000/v1")
    path = parts.path.rstrip("/")
    return urllib.parse.urlunsplit(parts._replace(path=path if path.endswith("/embeddings") else f"{path}/embeddings"))
