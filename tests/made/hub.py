"""A stand-in for the Hugging Face Hub over HTTP: repositories, preupload, LFS batches in one piece and in parts, commits; and its faults."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import ceil

LARGE, PART = 10_000, 40_000  # bytes from which a file is LFS, and of a part of one


class Hub:
    """What it holds, what was asked of it, and what it is to do wrong.

    faults: [pattern of "METHOD path", what]; each once: "500", "cut" (before anything is done), "lost" (done, but nobody hears of it).
    """

    def __init__(self):
        self.repositories: dict[str, dict[str, tuple[str, bytes]]] = {}  # name → path → (regular | lfs, content)
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.commits: list[list[str]] = []
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.faults: list[tuple[str, str]] = []
        self.known = "hf_" + "x" * 30
        self.lock = threading.Lock()

    def fault(self, line: str) -> str | None:
        with self.lock:
            for at, (pattern, what) in enumerate(self.faults):
                if re.search(pattern, line):
                    del self.faults[at]
                    return what
        return None

    # -- answers: (status, body)

    def post(self, path: str, body: bytes, address: str) -> tuple[int, object]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "my-org":
                return 403, {"error": "no right"}
            if name in self.repositories:
                return 409, {"error": "exists", "url": f"{address}/{name}"}
            self.repositories[name], self.private[name] = {}, asked.get("visibility") == "private"
            return 200, {"url": f"{address}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._action(one, address) for one in json.loads(body)["objects"]]}
        if found := re.fullmatch(r"/lfs/(\w+)/complete", path):
            joined = b"".join(self.parts[found[1], p["partNumber"]] for p in json.loads(body)["parts"])
            if hashlib.sha256(joined).hexdigest() != found[1]:
                return 400, {"error": "not what was announced"}
            self.objects[found[1]] = joined
            return 200, {}
        if path.startswith("/lfs/") and path.endswith("/verify"):
            return (200, {}) if path.split("/")[2] in self.objects else (404, {})
        if found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines()], address)
        return 404, {"error": path}

    def _action(self, one: dict, address: str) -> dict:
        oid, size = one["oid"], one["size"]
        if oid in self.objects:
            return {"oid": oid, "size": size}
        verify = {"href": f"{address}/lfs/{oid}/verify"}
        if size <= PART:
            return {"oid": oid, "size": size, "actions": {"upload": {"href": f"{address}/lfs/{oid}"}, "verify": verify}}
        header = {"chunk_size": str(PART)} | {f"{n:05d}": f"{address}/lfs/{oid}/part/{n}" for n in range(1, ceil(size / PART) + 1)}
        return {
            "oid": oid,
            "size": size,
            "actions": {"upload": {"href": f"{address}/lfs/{oid}/complete", "header": header}, "verify": verify},
        }

    def _commit(self, name: str, lines: list[dict], address: str) -> tuple[int, object]:
        there, done = dict(self.repositories[name]), []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                there[value["path"]] = ("regular", base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return 400, {"error": f"no object {value['oid']}"}
                there[value["path"]] = ("lfs", self.objects[value["oid"]])
            else:
                del there[value["path"]]
            done.append(f"{line['key']} {value['path']}")
        self.repositories[name] = there
        self.commits.append(done)
        return 200, {"commitUrl": f"{address}/{name}/commit/{len(self.commits)}", "commitOid": f"{len(self.commits):040d}"}

    def put(self, path: str, body: bytes) -> tuple[int, object]:
        parts = path.split("/")
        if len(parts) == 5:
            self.parts[parts[2], int(parts[4])] = body
            return 200, {}
        if hashlib.sha256(body).hexdigest() != parts[2]:
            return 400, {"error": "not what was announced"}
        self.objects[parts[2]] = body
        return 200, {}

    def get(self, path: str) -> tuple[int, object]:
        if not (found := re.fullmatch(r"/api/models/(.+)/tree/main.*", path)) or found[1] not in self.repositories:
            return 404, {"error": path}
        rows = []
        for name, (kind, content) in sorted(self.repositories[found[1]].items()):
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            lfs = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}} if kind == "lfs" else {}
            rows.append({"type": "file", "path": name, "size": len(content), "oid": blob, **lfs})
        return 200, rows


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Its address while it serves."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: a second one would wait 40 ms for the first to be acknowledged

        def _answer(self) -> None:
            line = f"{self.command} {self.path}"
            hub.asked.append(line)
            hub.tokens.add(self.headers.get("Authorization"))
            what = hub.fault(line)
            if what == "cut":  # in the middle of what is sent
                self.rfile.read(min(100, int(self.headers.get("Content-Length") or 0)))
                return self._hang_up()
            body = self._body()
            if what == "500":
                return self._send(500, {"error": "out of order"})
            if not self.path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {hub.known}":
                return self._send(401, {"error": "who are you?"})
            with hub.lock:
                path = self.path.partition("?")[0]
                answer = (
                    hub.get(path)
                    if self.command == "GET"
                    else hub.put(path, body)
                    if self.command == "PUT"
                    else hub.post(path, body, address)
                )
            if what == "lost":
                return self._hang_up()
            self._send(*answer)

        do_GET = do_POST = do_PUT = _answer

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _hang_up(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def _send(self, status: int, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"')
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
