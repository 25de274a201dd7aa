"""`evaluate.py completion` as its user calls it: two models and an endpoint, copies found in shards, a page."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.evaluate import main
from tests.made.papers import sentences
from tests.made.tiny import save_tiny, write_shards

pytestmark = pytest.mark.timeout(300)  # several models are loaded in one test, which takes a while on a loaded machine


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for seed in (0, 1):
        save_tiny(folder / f"model{seed}", seed)
    rows = [{"id": f"p{n}", "abstract": f"Star {n} <b>shines</b>. {sentences(n, 1)[:100]}."} for n in range(6)] + [
        {"id": "s", "abstract": "One. "}
    ]
    (folder / "papers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def endpoint():
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append({"path": self.path, **json.loads(self.rfile.read(int(self.headers["Content-Length"])))})
            data = json.dumps({"choices": [{"message": {"content": "It shines </script> brightly."}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", asked
    http.shutdown()
    http.server_close()


def test_two_models_and_an_endpoint_beside_the_truth(ground, endpoint, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    url, asked = endpoint
    models = [str(ground / f"model{k}") for k in (0, 1)]
    tokenizer, theirs = AutoTokenizer.from_pretrained(models[0]), AutoModelForCausalLM.from_pretrained(models[0]).eval()
    truth = json.loads((ground / "papers.jsonl").read_text().splitlines()[2])["abstract"]
    write_shards(ground / "shards", ground / "model0", [np.array(tokenizer(f"xx {truth[30:80]} yy").input_ids)])
    words = [
        "completion",
        "--model",
        *models,
        "--data",
        ground / "papers.jsonl",
        "--text-field",
        "abstract",
        "--out",
        tmp_path,
        "--sentences",
        1,
    ]
    words += ["--new-tokens", 12, "--samples", 2, "--shards", ground / "shards", "--endpoint", url, "--endpoint-model", "big"]
    assert main([str(word) for word in words]) == 0
    told = json.loads((tmp_path / "completion.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert told["items"] == len(lines) == 6 and told["left_out"] == {"not more than 1 sentence": 1}
    assert len(told["models"]) == 3 and len(asked) == 6 and asked[0]["path"] == "/v1/chat/completions"
    assert told["models"][models[0]]["truth_in_shards"]["longest_tokens"] >= 50

    nats = tokens = 0
    for line in lines:
        prompt, whole = (tokenizer(text, return_tensors="pt").input_ids for text in (line["prompt"], line["prompt"] + line["truth"]))
        with torch.no_grad():
            logs = torch.log_softmax(theirs(whole).logits[0], -1)
            made = theirs.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=2)[0, prompt.shape[1] :]
        nats -= sum(float(logs[k - 1, whole[0, k]]) for k in range(prompt.shape[1], whole.shape[1]))
        tokens += whole.shape[1] - prompt.shape[1]
        assert line["models"][models[0]][0] == tokenizer.decode(made, skip_special_tokens=True)
        assert len(line["models"][models[0]]) == 3
    assert told["models"][models[0]]["truth"]["loss"] == pytest.approx(nats / tokens, abs=1e-5)

    before = (tmp_path / "completion.json").read_bytes()
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    assert (tmp_path / "completion.json").read_bytes() == before and len(asked) == 6 and "are there from before" in capsys.readouterr().out


def test_the_page_hides_names_and_what_texts_hold_can_only_be_read(ground, tmp_path):
    from train.evaluation.continuation.items import Item
    from train.evaluation.continuation.page import page

    items = [Item("<id '1'", "<img src=x onerror=alert(1)> prompt", "</script><script>alert(2)</script>")]
    made = page(items, {"secret-base": ["<script>alert(3)</script>"], "secret-ours": ["b"]}, "k")
    assert "secret" not in made and "alert(" not in made.replace("&lt;", "<").split("<h1>")[0]
    assert made.count("<script>") == 1 and "<img" not in made and "http" not in made.lower().replace("http-equiv", "")
