"""The page on which one or two models are talked to and their answers rated.

POST /api/start → a conversation with shuffled sides → /api/ask streams both answers → /api/rate writes the rating, then tells the names.
Who is on which side is known here alone until a rating is on the disk. A conversation is rated once, as a whole. Beside them:
/api/count measures a text before it is sent, /api/stop ends the answers, /api/restore takes a conversation up again that the page kept.
Any number of people may be at it at once: who is whose turn is settled in room.py, who asks for too much is refused by floods.py.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from launch.talk import formatted
from launch.talk.floods import COSTS, Floods
from launch.talk.model import Sampling, Talker
from launch.talk.page import CSS, HTML
from launch.talk.room import LONGEST_COMMENT, LONGEST_TEXT, RefusedRequest, Room, is_text
from launch.talk.script import JS

LONGEST_BODY = 8_000_000  # bytes of a request
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
        comment = _text(body, "comment", empty=True)
        if len(comment) > LONGEST_COMMENT:
            raise RefusedRequest(413, f"comment: {len(comment):,} characters; {LONGEST_COMMENT:,} are the most.")
        names = room.rate(_text(body, "id"), _text(body, "choice"), comment)
        return JSONResponse({"models": names}, headers=_HEADERS)

    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=getattr(error, "status", 400), headers=_HEADERS)

    routes = [Route(path, page) for path in _PAGE]
    routes += [Route(f"/vendor/{name}", vendor) for name in formatted.VENDOR]
    floods = Floods()
    routes += [Route(f"/api/{call.__name__}", _fair(call, floods), methods=["POST"]) for call in (start, restore, count, ask, stop, rate)]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)  # a foreign page must not reach us under a name of its own
    return Starlette(routes=routes, middleware=[guard], exception_handlers={RefusedRequest: refuse})


def _fair(call: Any, floods: Floods) -> Any:
    """The call, or 429 for an address that asks for more than its share."""
    from starlette.responses import JSONResponse

    async def answered(request: Any) -> Any:
        address = request.client.host if request.client else ""
        if wait := floods.refuse(address, COSTS.get(call.__name__, 1), time.monotonic()):
            told = {"error": f"Too many requests from your address; try again in {wait} s."}
            return JSONResponse(told, status_code=429, headers={**_HEADERS, "Retry-After": str(wait)})
        return await call(request)

    return answered


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


def _text(body: dict[str, Any], name: str, empty: bool = False) -> str:
    value = body.get(name, "")
    if not isinstance(value, str) or not (value.strip() or empty):
        raise RefusedRequest(400, f"{name}: text is needed.")
    if not is_text(value):
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
    print(f"{room.count} ratings written to {ratings}; python launch/chat.py --results --ratings {ratings} sums them up", file=sys.stderr)
    return 0
