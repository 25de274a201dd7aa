"""One paper → one answer of an OpenAI-compatible endpoint that may be slow, busy, broken or rude.

wait for the pace → POST /chat/completions → checked `Reply`. What may pass is tried again with exponential back-off and jitter, and no
sooner than a Retry-After, for all workers at once; what cannot is raised. The key lives in the client's headers only, and is struck out of
all that comes back.
"""

import asyncio
import datetime
import email.utils
import json
import random
from dataclasses import dataclass
from typing import Any

import httpx2

from data_tools.questions.journal import QuestionsError

ATTEMPTS = 8
LONGEST_WAIT = 600.0  # seconds; a server that asks for more is told off to the user
LARGEST_REPLY = 8 * 2**20  # bytes
HOPELESS = (*range(300, 400), 401, 402, 403, 404, 405)  # moved, wrong key, no money, no such model or path: the same for every paper
REFUSED = (400, 413, 422)  # this very request is wrong: trying again gives the same


class Unanswered(Exception):
    """One paper has no usable answer; the others may."""


@dataclass(frozen=True)
class Reply:
    content: str
    model: str  # as the server calls it
    finish_reason: str | None
    usage: dict[str, Any]
    attempts: int
    seconds: float  # of the attempt that worked


class Pace:
    """Starts at most `per_minute` requests a minute, evenly; nobody starts while the server wants quiet."""

    def __init__(self, per_minute: float | None):
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        while (now := loop.time()) < self._next:
            await asyncio.sleep(self._next - now)
        self._next = now + self._gap

    def quiet(self, seconds: float) -> None:
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


class Endpoint:
    """Asks; use as `async with`. Raises Unanswered for one paper, QuestionsError when asking on is pointless."""

    def __init__(self, base_url: str, key: str | None, *, pace: Pace, concurrency: int, timeout: float, backoff: float):
        self._url = checked_url(base_url)
        self._key, self._pace, self._timeout, self._backoff = key, pace, timeout, backoff
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=concurrency)
        self._client = httpx2.AsyncClient(headers=headers, limits=limits, timeout=timeout, follow_redirects=False)

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, body: dict[str, Any]) -> Reply:
        for attempt in range(1, ATTEMPTS + 1):
            await self._pace.wait()
            begun = asyncio.get_running_loop().time()
            try:
                status, retry_after, data = await asyncio.wait_for(self._post(body), self._timeout)
            except (TimeoutError, httpx2.TransportError, httpx2.StreamError) as error:
                fault, retry_after = f"{type(error).__name__} {self._clean(str(error))}".strip(), None
            else:
                fault = self._fault(status, data)
                if fault is None:
                    return self._reply(data, attempt, asyncio.get_running_loop().time() - begun)
            if attempt < ATTEMPTS:
                await self._rest(attempt, retry_after)
        raise Unanswered(f"{fault} ({ATTEMPTS} attempts)")

    async def _post(self, body: dict[str, Any]) -> tuple[int, float | None, bytes]:
        data = bytearray()
        async with self._client.stream("POST", self._url, json=body) as response:
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > LARGEST_REPLY:
                    raise httpx2.ReadError(f"reply above {LARGEST_REPLY} bytes")
            wait = _retry_after(response.headers.get("retry-after")) if response.status_code in (429, 503) else None
            return response.status_code, wait, bytes(data)

    def _fault(self, status: int, data: bytes) -> str | None:
        """None for a usable reply, the fault of one worth another attempt; raises for the rest."""
        if status == 200:
            try:
                _content(json.loads(data))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                return f"unusable reply, no chat completion: {self._clean(data[:200].decode('utf-8', 'replace'))!r}"
            return None
        said = f"HTTP {status}: {self._clean(data.decode('utf-8', 'replace'))[:300].strip()}"
        if status in HOPELESS:
            raise QuestionsError(f"{self._url}: {said}; check --base-url, --model and the key in OPENAI_API_KEY")
        if status in REFUSED:
            raise Unanswered(said)
        return said

    def _reply(self, data: bytes, attempt: int, seconds: float) -> Reply:
        value = json.loads(data)
        usage = value.get("usage")
        numbers = {k: v for k, v in usage.items() if isinstance(v, int)} if isinstance(usage, dict) else {}
        reason = value["choices"][0].get("finish_reason")
        return Reply(
            content=self._clean(_content(value)),
            model=self._clean(str(value.get("model", "")))[:200],
            finish_reason=None if reason is None else str(reason)[:40],
            usage=numbers,
            attempts=attempt,
            seconds=round(seconds, 3),
        )

    async def _rest(self, attempt: int, retry_after: float | None) -> None:
        if retry_after is not None:
            if retry_after > LONGEST_WAIT:
                raise QuestionsError(f"{self._url}: the server asks to wait {retry_after:.0f} s; run the same command again after that")
            self._pace.quiet(retry_after)
        ceiling = min(60.0, self._backoff * 2 ** (attempt - 1))
        await asyncio.sleep(random.Random().uniform(ceiling / 2, ceiling))  # jitter need not be repeatable

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _content(value: Any) -> str:
    """The assistant's words in a chat completion; raises what tells a broken one."""
    content = value["choices"][0]["message"]["content"]
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"content is {str(content)[:40]!r}")
    return content


def checked_url(base_url: str) -> str:
    """The address to post to; QuestionsError, which does not repeat it, when it holds what may be a key."""
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as error:
        raise QuestionsError(f"--base-url: {error}; give one such as http://localhost:8000/v1") from None
    if url.userinfo or url.query or url.fragment:
        raise QuestionsError("--base-url: holds a name, a key or a query; give scheme, host and path only, and the key as OPENAI_API_KEY")
    if url.scheme not in ("http", "https") or not url.host:
        raise QuestionsError(f"--base-url: {base_url!r} is no http address; give one such as http://localhost:8000/v1")
    path = url.path.rstrip("/")
    return str(url.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions"))


def _retry_after(value: str | None) -> float | None:
    """Seconds from now, of either form of the header; None when it is absent or nonsense."""
    if value is None:
        return None
    try:
        if value.strip().isdigit():
            return float(value)
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
