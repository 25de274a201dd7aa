"""The page on which one or two models are talked to and their answers rated.

POST /api/start → a conversation with shuffled sides → /api/ask streams both answers → /api/rate writes the rating, then tells the names.
Who is on which side is known here alone until a rating is on the disk. A conversation is rated once, as a whole. Beside them:
/api/count measures a text before it is sent, /api/stop ends the answers, /api/restore takes a conversation up again that the page kept.
"""

import asyncio
import contextlib
import datetime
import hashlib
import json
import re
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.chat.conversations import Refused, Turn
from launch.talk import formatted
from launch.talk.model import ModelError, Sampling, Talker
from launch.talk.page import CSS, HTML
from launch.talk.ratings import append_durably, unpreferred
from launch.talk.script import JS

CHOICES = {"left": 0, "right": 1, "tie": 0, "neither": None}  # the side whose conversation is kept for training
MOST_CONVERSATIONS = 1000  # the oldest are forgotten: a page left open must not fill the memory
LONGEST_TEXT = 400_000  # characters
LONGEST_BODY = 8_000_000  # bytes of a request
CUTS = ("length", "stopped")  # why an answer may be no whole one
_PAGE = {
    "/": (HTML, "text/html"),
    "/page.css": (CSS, "text/css"),
    "/format.js": (formatted.JS, "text/javascript"),
    "/page.js": (JS, "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass
class Comparison:
    """One conversation with every model; `sides[0]` stands on the left."""

    id: str
    sides: list[Talker]
    turns: list[list[Turn]]  # of each side
    cuts: list[list[str | None]]  # of each side, of each answer: why it is no whole one
    stop: threading.Event = field(default_factory=threading.Event)
    restored: bool = False  # the page told the turns, after this server had forgotten them
    busy: bool = False
    rated: bool = False


class RefusedRequest(ValueError):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass
class Room:
    """All conversations of this server."""

    talkers: list[Talker]
    sampling: Sampling
    ratings: Path
    count: int = 0
    comparisons: dict[str, Comparison] = field(default_factory=dict)

    @property
    def models(self) -> str:
        """What the page knows the served models by: another value for others, no name in it."""
        told = sorted(f"{talker.name}\n{talker.format}" for talker in self.talkers)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]

    def about(self, comparison: Comparison) -> dict[str, Any]:
        contexts = [talker.context for talker in self.talkers if talker.context is not None]
        return {
            "id": comparison.id,
            "sides": len(comparison.sides),
            "models": self.models,
            "context": min(contexts, default=None),
            "answer": max(talker.longest(self.sampling) for talker in self.talkers),
            "longest": LONGEST_TEXT,
        }

    def start(self, system: str, id: str | None = None) -> Comparison:
        id = secrets.token_urlsafe(16) if id is None else id
        # shuffled by the random id: the same sides again when the conversation outlives this server
        sides = sorted(self.talkers, key=lambda talker: hashlib.sha256(f"{id}\n{talker.name}".encode()).digest())
        opening = [Turn("system", system.strip())] if system.strip() else []
        comparison = Comparison(id, sides, [list(opening) for _ in sides], [[] for _ in sides])
        self.comparisons[comparison.id] = comparison
        while len(self.comparisons) > MOST_CONVERSATIONS:
            del self.comparisons[next(iter(self.comparisons))]
        return comparison

    def restore(self, id: str, models: str, system: str, sides: Any) -> Comparison:
        """The conversation as it is known here, or as the page kept it: sides = of each side [[question, answer, cut], …]."""
        if models != self.models:
            raise RefusedRequest(
                410, "Another model is served now than the one of this conversation. Read it here; to ask, start a new one."
            )
        if id in self.comparisons:
            return self.find(id)
        told = _exchanges(sides, len(self.talkers))
        if told is None or not re.fullmatch(r"[\w-]{16,64}", id, re.ASCII):
            raise RefusedRequest(400, "The conversation that this page kept cannot be read; start a new one.")
        comparison = self.start(system, id)
        comparison.restored = True
        for side, exchanges in enumerate(told):
            for question, answer, cut in exchanges:
                comparison.turns[side] += [Turn("user", question), Turn("assistant", answer.strip() or "(no answer)")]
                comparison.cuts[side].append(cut)
        return comparison

    def find(self, id: str) -> Comparison:
        if id not in self.comparisons:
            raise RefusedRequest(404, "This conversation is no longer known; start a new one.")
        comparison = self.comparisons[id]
        if comparison.rated:
            raise RefusedRequest(409, "This conversation is rated already; start a new one.")
        if comparison.busy:
            raise RefusedRequest(409, "The answers are still being written.")
        return comparison

    async def ask(self, comparison: Comparison, text: str) -> AsyncIterator[dict[str, Any]]:
        """{side, tokens, left_out}, {side, piece} …, {side, done, cut}, for each side, then {end}; or {error}, and nothing is kept.

        tokens: what the model reads; left_out: oldest messages that its context does not hold; cut: one of CUTS, or null.
        """
        if comparison.busy:  # two requests may have passed `find` together
            yield {"error": "The answers are still being written."}
            return
        comparison.busy, comparison.stop = True, threading.Event()
        answered = []
        try:
            for side in range(len(comparison.sides)):
                answer = ""
                async for event in self._answer(comparison, side, text):
                    answer += event.get("piece", "")
                    yield event
                if comparison.stop.is_set() and (not answer.strip() or side + 1 < len(comparison.sides)):
                    yield {"error": "Stopped before there was an answer to keep; your question is back in the box."}
                    return
                # an empty answer is one that can be rated, but not one that a later turn, or training, can be built on
                answered.append(([Turn("user", text), Turn("assistant", answer.strip() or "(no answer)")], event["cut"]))
            for side, (turns, cut) in enumerate(answered):
                comparison.turns[side] = [*comparison.turns[side], *turns]
                comparison.cuts[side].append(cut)
            yield {"end": True}
        except (ModelError, Refused) as error:
            yield {"error": f"{error}."}
        except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, OSError) as error:
            traceback.print_exc()  # for who runs the server; who asks gets a sentence
            yield {"error": f"The model failed ({type(error).__name__}); what the server printed tells more. The question is not kept."}
        finally:
            comparison.stop.set()  # also when the page was closed meanwhile
            comparison.busy = False

    async def _answer(self, comparison: Comparison, side: int, text: str) -> AsyncIterator[dict[str, Any]]:
        """The events of one side; the last holds `cut`."""
        talker, turns = comparison.sides[side], [*comparison.turns[side], Turn("user", text)]
        fitted = await asyncio.to_thread(talker.fit, turns, self.sampling)
        tokens = len(await asyncio.to_thread(talker.prompt, fitted))
        yield {"side": side, "tokens": tokens, "left_out": len(turns) - len(fitted)}
        pieces = talker.answer(fitted, self.sampling, comparison.stop)
        piece, cut = await asyncio.to_thread(_next, pieces)
        while piece is not None:
            yield {"side": side, "piece": piece}
            piece, cut = await asyncio.to_thread(_next, pieces)
        yield {"side": side, "done": True, "cut": "stopped" if comparison.stop.is_set() else cut}

    def measure(self, comparison: Comparison, text: str) -> dict[str, Any]:
        """What asking `text` now would take: {tokens, left_out, fits}, of the side where it is most. Raises RefusedRequest."""
        found = []
        for talker, before in zip(comparison.sides, comparison.turns):
            turns = [*before, Turn("user", text)]
            try:
                fitted = talker.fit(turns, self.sampling)
                tokens = len(talker.prompt(fitted))
            except Refused as error:
                raise RefusedRequest(400, f"{error}.") from None
            found.append((tokens, len(turns) - len(fitted), talker.has_room(tokens, self.sampling)))
        tokens, left_out, fits = zip(*found)
        return {"tokens": max(tokens), "left_out": max(left_out), "fits": all(fits)}

    def rate(self, comparison: Comparison, choice: str) -> list[str]:
        """Names of the models, left first, once the rating is on the disk."""
        if choice not in CHOICES or (choice in ("right", "tie") and len(comparison.sides) == 1):
            raise RefusedRequest(400, "No such rating.")
        if not any(turn.role == "assistant" for turn in comparison.turns[0]):
            raise RefusedRequest(409, "There is no answer to rate yet.")
        line = _line(comparison, choice, self.sampling)
        path = self.ratings if CHOICES[choice] is not None else unpreferred(self.ratings)
        try:
            append_durably(path, line)
        except OSError as error:
            raise RefusedRequest(507, f"The rating is not saved: {path}: {error.strerror}.") from None
        comparison.rated = True
        self.count += 1
        return [talker.name for talker in comparison.sides]


def _next(pieces: Generator[str, None, str | None]) -> tuple[str | None, str | None]:
    """(piece, None), or at the end (None, what the generator returned): StopIteration cannot leave a thread of asyncio's."""
    try:
        return next(pieces), None
    except StopIteration as end:
        return None, end.value


def _exchanges(sides: Any, count: int) -> list[list[tuple[str, str, str | None]]] | None:
    """(question, answer, cut) of each side, as a page sent them; None unless all sides were asked the same."""

    def is_one(exchange: Any) -> bool:
        if not (isinstance(exchange, list) and len(exchange) == 3 and exchange[2] in (None, *CUTS)):
            return False
        question, answer = exchange[:2]
        return all(isinstance(text, str) and len(text) <= LONGEST_TEXT and _is_text(text) for text in (question, answer)) and bool(
            question.strip()
        )

    if not (isinstance(sides, list) and len(sides) == count and all(isinstance(side, list) for side in sides)):
        return None
    if not all(is_one(exchange) for side in sides for exchange in side):
        return None
    asked = [[exchange[0] for exchange in side] for side in sides]
    return [[tuple(exchange) for exchange in side] for side in sides] if all(one == asked[0] for one in asked) else None


def _line(comparison: Comparison, choice: str, sampling: Sampling) -> dict[str, Any]:
    transcripts = [[{"role": turn.role, "content": turn.text} for turn in turns] for turns in comparison.turns]
    kept, names = CHOICES[choice], [talker.name for talker in comparison.sides]
    return {
        "id": comparison.id,
        "messages": transcripts[kept or 0],
        "meta": {
            "rating": choice,
            "preferred": names if choice == "tie" else [] if kept is None else [names[kept]],
            "answers": [
                {"side": side, "model": name, "messages": said, "cut": cuts}
                for side, name, said, cuts in zip(("left", "right"), names, transcripts, comparison.cuts)
            ],
            "restored": comparison.restored,
            "temperature": sampling.temperature,
            "max_new_tokens": sampling.max_new_tokens,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }


def build_app(room: Room, hosts: list[str]) -> Any:
    """The page and its calls as a Starlette application; hosts: names it may be called by, ["*"] for any."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def page(request: Request) -> Response:
        text, kind = _PAGE[request.url.path]
        return Response(text, media_type=kind, headers=_HEADERS)

    async def vendor(request: Request) -> Response:
        kept = {**_HEADERS, "Cache-Control": "private, max-age=86400"}  # the version is in the name
        return FileResponse(formatted.FOLDER / request.url.path.rpartition("/")[2], media_type="text/javascript", headers=kept)

    async def start(request: Request) -> Response:
        comparison = room.start(_text(await _body(request), "system", empty=True))
        return JSONResponse(room.about(comparison), headers=_HEADERS)

    async def restore(request: Request) -> Response:
        body = await _body(request)
        id, models = _text(body, "id"), _text(body, "models")
        if (known := room.comparisons.get(id)) and models == room.models:
            known.stop.set()  # the page was loaded anew while an answer was written
            for _ in range(100):
                if known.busy:
                    await asyncio.sleep(0.1)
        comparison = room.restore(id, models, _text(body, "system", empty=True), body.get("sides"))
        texts = [[turn.text for turn in turns if turn.role != "system"] for turns in comparison.turns]
        kept = [list(zip(said[::2], said[1::2], cuts)) for said, cuts in zip(texts, comparison.cuts)]
        return JSONResponse({**room.about(comparison), "kept": kept}, headers=_HEADERS)

    async def count(request: Request) -> Response:
        body = await _body(request)
        comparison, text = room.find(_text(body, "id")), _text(body, "text")
        return JSONResponse(await asyncio.to_thread(room.measure, comparison, text), headers=_HEADERS)

    async def stop(request: Request) -> Response:
        if comparison := room.comparisons.get(_text(await _body(request), "id")):
            comparison.stop.set()
        return JSONResponse({}, headers=_HEADERS)

    async def ask(request: Request) -> Response:
        body = await _body(request)
        text = _text(body, "text")
        comparison = room.find(_text(body, "id"))

        async def lines() -> AsyncIterator[str]:
            async for event in room.ask(comparison, text):
                yield json.dumps(event) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson", headers=_HEADERS)

    async def rate(request: Request) -> Response:
        body = await _body(request)
        names = room.rate(room.find(_text(body, "id")), _text(body, "choice"))
        return JSONResponse({"models": names}, headers=_HEADERS)

    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=getattr(error, "status", 400), headers=_HEADERS)

    routes = [Route(path, page) for path in _PAGE]
    routes += [Route(f"/vendor/{name}", vendor) for name in formatted.VENDOR]
    routes += [Route(f"/api/{call.__name__}", call, methods=["POST"]) for call in (start, restore, count, ask, stop, rate)]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)  # a foreign page must not reach us under a name of its own
    return Starlette(routes=routes, middleware=[guard], exception_handlers={RefusedRequest: refuse})


async def _body(request: Any) -> dict[str, Any]:
    """JSON only: a form of a foreign page cannot send that type without being asked first."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedRequest(415, "Send JSON.")
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > LONGEST_BODY:
            raise RefusedRequest(413, f"Longer than {LONGEST_BODY:,} bytes; start a new conversation.")
    try:
        value = json.loads(bytes(data))
    except ValueError:
        raise RefusedRequest(400, "Not JSON.") from None
    if not isinstance(value, dict):
        raise RefusedRequest(400, "Not a JSON object.")
    return value


def _is_text(value: str) -> bool:
    """False with a lone surrogate, which JSON can hold but no file and no tokenizer."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(body: dict[str, Any], name: str, empty: bool = False) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or not (value.strip() or empty):
        raise RefusedRequest(400, f"{name}: text is needed.")
    if not _is_text(value):
        raise RefusedRequest(400, f"{name}: holds half a character; remove it.")
    if len(value) > LONGEST_TEXT:
        raise RefusedRequest(413, f"{name}: {len(value):,} characters; {LONGEST_TEXT:,} are the most.")
    return value


def serve(talkers: list[Talker], sampling: Sampling, ratings: Path, host: str, port: int) -> int:
    """Serve the page until Ctrl-C; 1 with one message when it cannot start."""
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        print(f"chat: --web needs {error.name}: pip install 'astrollama-trainer[web]'", file=sys.stderr)
        return 1
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        print(f"chat: --host {host} --port {port}: {error.strerror}; choose another port, or --port 0 for any", file=sys.stderr)
        return 1
    local = host in ("127.0.0.1", "localhost")
    room = Room(talkers, sampling, ratings)
    app = build_app(room, ["127.0.0.1", "localhost"] if local else ["*"])
    address, port = ("127.0.0.1" if local else host), listener.getsockname()[1]
    print(f"open http://{address}:{port}/ ; from another machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}", file=sys.stderr)
    if not local:
        print(f"warning: everybody who reaches port {port} of this machine can ask and rate", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has closed everything before it raises this
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)).run(sockets=[listener])
    print(f"{room.count} ratings written to {ratings}", file=sys.stderr)
    return 0
