"""An OpenAI-compatible endpoint that misbehaves, in a process of its own.

    python tests/made/misbehaving_server.py FOLDER [MISHAPS] [SECONDS]      writes FOLDER/port when it listens

Each request gets the next mishap of a comma-separated cycle: ok, 429, 500, slow, cut, notjson, nochoices, schema, echo, 400 … Each request
of a paper is a line `started ID` in FOLDER/requests.log, each good answer sent to its last byte another, `answered ID`. The paper's id is
what follows "PAPER-ID" in its text; an answer quotes the paper, and holds one pair that is not grounded. It notes, too, any key it is sent.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def start(folder: Path, mishaps: str = "ok", seconds: float = 0.0) -> tuple[subprocess.Popen, str]:
    """(process, base url) of a server that listens; the caller ends the process."""
    folder.mkdir(parents=True, exist_ok=True)
    from tests.made import processes

    process = processes.start([sys.executable, __file__, str(folder), mishaps, str(seconds)], **processes.QUIET)
    for _ in range(600):
        if (folder / "port").exists():
            return process, f"http://127.0.0.1:{(folder / 'port').read_text()}/v1"
        assert process.poll() is None, "the server ended at once"
        time.sleep(0.05)
    raise AssertionError("the server does not listen")


def requests(folder: Path, word: str = "started") -> list[str]:
    """Ids of the papers that were asked about ("started") or answered well ("answered"), in order."""
    log = folder / "requests.log"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [line[1] for line in lines if line[0] == word]


def serve(folder: Path, mishaps: list[str], seconds: float) -> None:
    cycle, lock = itertools.cycle(mishaps), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            id = re.search(r"PAPER-ID (\S+)", text).group(1)
            with lock:
                mishap = next(cycle)
                note(f"started {id}")
                note(f"moment {time.time():.3f} {mishap}")
                note(f"key {self.headers.get('Authorization')}")
            time.sleep(10 if mishap == "slow" else seconds)
            try:
                self.misbehave(mishap, id, body, text)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def misbehave(self, mishap: str, id: str, body: dict, text: str) -> None:
            if mishap == "429":
                self.send(429, b'{"error": "slow down"}', {"Retry-After": "1"})
            elif mishap in ("500", "503", "400", "401", "404"):
                self.send(int(mishap), f"fault, your header was {self.headers.get('Authorization')}".encode())
            elif mishap == "cut":
                data = answer(id, body, text)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif mishap in BROKEN:
                self.send(200, BROKEN[mishap])
            elif mishap == "echo":  # a proxy that writes what it was sent into its answer
                self.send(200, answer(id, body, text + f" {self.headers.get('Authorization')}"))
            else:
                self.send(200, answer(id, body, text))
                note(f"answered {id}")

        def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    log = os.open(folder / "requests.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(line: str) -> None:
        os.write(log, line.encode() + b"\n")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients are killed here; their broken connections are the point
    (folder / "port.tmp").write_text(str(server.server_port))
    os.rename(folder / "port.tmp", folder / "port")
    server.serve_forever()


BROKEN = {
    "notjson": b"<html>502 Bad Gateway</html>",
    "nochoices": b'{"model": "m", "choices": []}',
    "schema": b'{"choices": {"message": "a wrong shape"}}',
    "null": b'{"choices": [{"message": {"role": "assistant", "content": null}}]}',
    "list": b"[1, 2]",
}


def answer(id: str, body: dict, text: str) -> bytes:
    _, paper, after = text.rsplit("~~~~", 2)
    sentence = (paper + after).strip()  # `after` is what the mishap "echo" adds
    pairs = [
        {"question": "What is reported of the source?", "answer": sentence},
        {"question": "How bright is the source in the end?", "answer": f"{sentence} Its magnitude is 987654.5 in the end."},
    ]
    content = "Here they are:\n```json\n" + json.dumps(pairs) + "\n```"
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": len(text) // 4, "completion_tokens": len(content) // 4, "total_tokens": (len(text) + len(content)) // 4}
    value = {
        "id": id,
        "model": body["model"] + "-served",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
    return json.dumps(value).encode()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), (sys.argv[2:3] or ["ok"])[0].split(","), float((sys.argv[3:4] or ["0"])[0]))
