"""`evaluate.py embedding` as its user calls it, with an endpoint that stumbles."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from launch.evaluate import main
from launch.measures.endpoint import Endpoint, checked_url
from tests.made.papers import sentences
from tests.made.tiny import save_tiny
from train.evaluation.texts import EvaluationError

pytestmark = pytest.mark.timeout(300)  # several models are loaded in one test, which takes a while on a loaded machine


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    for seed in (0, 1):
        save_tiny(folder / f"model{seed}", seed)
    rows = [
        {"id": str(n), "title": sentences(n, 1)[:30], "abstract": sentences(n, 1)[:150], "categories": f"astro-ph.{'GC'[n % 2]}A other"}
        for n in range(24)
    ]
    rows += [{"id": "short", "abstract": "two words"}, rows[0]]
    (folder / "papers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def server():
    """An endpoint that counts letters: every second request fails, rows come in any order."""
    seen: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"key": self.headers.get("Authorization"), **body})
            if body["model"] == "forbidden":
                return self._reply(401, json.dumps({"error": f"bad key {self.headers.get('Authorization')}"}).encode())
            if len(seen) % 2:
                return self._reply(503, b"busy") if len(seen) % 4 == 1 else self._reply(200, b'{"data": [')
            rows = [{"index": k, "embedding": [float(text.count(c)) for c in "aeiost"]} for k, text in enumerate(body["input"])]
            return self._reply(200, json.dumps({"data": rows[::-1]}).encode())

        def _reply(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", seen
    http.shutdown()
    http.server_close()


def test_base_ours_and_an_endpoint_side_by_side_with_a_figure(ground, server, tmp_path, capsys, monkeypatch):
    url, seen = server
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setattr("launch.measures.endpoint.LONGEST_WAIT", 0.01)
    words = ["embedding", "--model", ground / "model0", ground / "model1", "--data", ground / "papers.jsonl", "--out", tmp_path]
    assert main([str(word) for word in (*words, "--endpoint", url, "--endpoint-model", "counts")]) == 0
    told, said = json.loads((tmp_path / "embedding.json").read_text()), capsys.readouterr()
    assert told["papers"] == 24 and len(told["models"]) == 3 and len(told["paired"]) == 2
    for one in told["models"].values():
        assert 0 <= one["raw"]["title_to_abstract"]["recall@1"]["value"] <= one["raw"]["title_to_abstract"]["recall@10"]["value"] <= 1
        assert one["centred"]["cosine"]["pairs"] == 276 and 0 < one["centred"]["category"]["auc"] < 1
    assert (tmp_path / "embedding.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (tmp_path / "embedding.svg").read_text()
    assert seen[0]["key"] == "Bearer sk-canary" and "sk-canary" not in said.out + said.err
    assert not any(b"sk-canary" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    count = len(seen)
    assert main([str(word) for word in (*words, "--endpoint", url, "--endpoint-model", "counts")]) == 0
    assert len(seen) == count and "are there from before" in capsys.readouterr().out


def test_rows_in_any_order_are_put_right(server):
    vectors = Endpoint(server[0], "m", first_wait=0.0).embeddings(["aaa", "e", "tt"])
    assert np.array_equal(vectors[:, [0, 1, 5]], [[3, 0, 0], [0, 1, 0], [0, 0, 2]])


def test_a_refusal_ends_at_once_without_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    with pytest.raises(EvaluationError, match="HTTP 401") as told:
        Endpoint(server[0], "forbidden").embeddings(["a"])
    assert "sk-canary" not in str(told.value) and len(server[1]) == 1


@pytest.mark.parametrize("url", ["http://u:secret@host/v1", "http://host/v1?key=secret", "file:///etc/passwd", "host"])
def test_an_address_that_is_none_is_refused_without_what_may_be_a_key(url):
    with pytest.raises(EvaluationError) as told:
        checked_url(url)
    assert "secret" not in str(told.value)
