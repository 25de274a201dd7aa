"""The page on which one or two models are talked to and their answers rated.

POST /api/start → a conversation with shuffled sides → /api/ask streams both answers → /api/rate writes the rating, then tells the names.
Who is on which side is known here alone until a rating is on the disk. A conversation is rated once, as a whole.
"""

import asyncio
import contextlib
import datetime
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.chat.conversations import Refused, Turn
from data_tools.files.atomic import write_fault
from launch.talk.model import ModelError, Sampling, Talker
from launch.talk.page import CSS, HTML, JS

CHOICES = {"left": 0, "right": 1, "tie": 0, "neither": None}  # the side whose conversation is kept for training
MOST_CONVERSATIONS = 1000  # the oldest are forgotten: a page left open must not fill the memory
LONGEST_TEXT = 20_000  # characters
_PAGE = {
    "/": (HTML, "text/html"),
    "/page.css": (CSS, "text/css"),
    "/page.js": (JS, "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
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

    def start(self, system: str) -> Comparison:
        sides = list(self.talkers)
        secrets.SystemRandom().shuffle(sides)
        opening = [Turn("system", system.strip())] if system.strip() else []
        comparison = Comparison(secrets.token_urlsafe(16), sides, [list(opening) for _ in sides])
        self.comparisons[comparison.id] = comparison
        while len(self.comparisons) > MOST_CONVERSATIONS:
            del self.comparisons[next(iter(self.comparisons))]
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
        """{side, piece} …, {side, done}, for each side, then {end}; or {error}. The turns are kept only when all sides answered."""
        if comparison.busy:  # two requests may have passed `find` together
            yield {"error": "The answers are still being written."}
            return
        comparison.busy = True
        stop = threading.Event()
        answered = []
        try:
            for side, talker in enumerate(comparison.sides):
                turns = [*comparison.turns[side], Turn("user", text)]
                pieces = talker.answer(talker.fit(turns, self.sampling), self.sampling, stop)
                answer = ""
                while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                    answer += piece
                    yield {"side": side, "piece": piece}
                yield {"side": side, "done": True}
                # an empty answer is one that can be rated, but not one that a later turn, or training, can be built on
                answered.append([*turns, Turn("assistant", answer.strip() or "(no answer)")])
            comparison.turns = answered
            yield {"end": True}
        except (ModelError, Refused) as error:
            yield {"error": f"{error}."}
        finally:
            stop.set()  # also when the page was closed meanwhile
            comparison.busy = False

    def rate(self, comparison: Comparison, choice: str) -> list[str]:
        """Names of the models, left first, once the rating is on the disk."""
        if choice not in CHOICES or (choice in ("right", "tie") and len(comparison.sides) == 1):
            raise RefusedRequest(400, "No such rating.")
        if not any(turn.role == "assistant" for turn in comparison.turns[0]):
            raise RefusedRequest(409, "There is no answer to rate yet.")
        line = _line(comparison, choice, self.sampling)
        append_durably(self.ratings if CHOICES[choice] is not None else unpreferred(self.ratings), line)
        comparison.rated = True
        self.count += 1
        return [talker.name for talker in comparison.sides]


def require_writable(ratings: Path) -> None:
    """Before a model is loaded, not when somebody has rated. Raises ModelError."""
    if fault := write_fault(ratings):
        raise ModelError(f"--ratings {ratings}: cannot be written ({fault}); give another file")


def unpreferred(ratings: Path) -> Path:
    """Where conversations go whose answers were all found bad: nobody should train on them."""
    return ratings.with_name(f"{ratings.stem}.unpreferred{ratings.suffix}")


def _line(comparison: Comparison, choice: str, sampling: Sampling) -> dict[str, Any]:
    transcripts = [[{"role": turn.role, "content": turn.text} for turn in turns] for turns in comparison.turns]
    kept, names = CHOICES[choice], [talker.name for talker in comparison.sides]
    return {
        "id": comparison.id,
        "messages": transcripts[kept or 0],
        "meta": {
            "rating": choice,
            "preferred": names if choice == "tie" else [] if kept is None else [names[kept]],
            "answers": [{"side": side, "model": name, "messages": said} for side, name, said in zip(("left", "right"), names, transcripts)],
            "temperature": sampling.temperature,
            "max_new_tokens": sampling.max_new_tokens,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }


def append_durably(path: Path, value: dict[str, Any]) -> None:
    """One whole line, on the disk when this returns; several servers may share the file."""
    data = json.dumps(value, ensure_ascii=True).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            data = data if file.read(1) == b"\n" else b"\n" + data  # half a line that a crash left stays by itself
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def build_app(room: Room, hosts: list[str]) -> Any:
    """The page and its three calls as a Starlette application; hosts: names it may be called by, ["*"] for any."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def page(request: Request) -> Response:
        text, kind = _PAGE[request.url.path]
        return Response(text, media_type=kind, headers=_HEADERS)

    async def start(request: Request) -> Response:
        comparison = room.start(_text(await _body(request), "system", empty=True))
        return JSONResponse({"id": comparison.id, "sides": len(comparison.sides)}, headers=_HEADERS)

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
    routes += [Route(f"/api/{call.__name__}", call, methods=["POST"]) for call in (start, ask, rate)]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)  # a foreign page must not reach us under a name of its own
    return Starlette(routes=routes, middleware=[guard], exception_handlers={RefusedRequest: refuse})


async def _body(request: Any) -> dict[str, Any]:
    """JSON only: a form of a foreign page cannot send that type without being asked first."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedRequest(415, "Send JSON.")
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > 8 * LONGEST_TEXT:
            raise RefusedRequest(413, "Too long.")
    try:
        value = json.loads(bytes(data))
    except ValueError:
        raise RefusedRequest(400, "Not JSON.") from None
    if not isinstance(value, dict):
        raise RefusedRequest(400, "Not a JSON object.")
    return value


def _text(body: dict[str, Any], name: str, empty: bool = False) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or not (value.strip() or empty):
        raise RefusedRequest(400, f"{name}: text is needed.")
    if len(value) > LONGEST_TEXT:
        raise RefusedRequest(413, f"{name}: longer than {LONGEST_TEXT} characters.")
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
