"""The comparing page: blind until rated, shuffled, its ratings readable as chats; in a real browser."""

import asyncio
import json
import threading
import time
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("starlette", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

import uvicorn

from data_tools.chat.conversations import Turn, read_record
from launch.talk import ratings as chat_ratings
from launch.talk import room as chat_room
from launch.talk import web as chat_web
from launch.talk.model import Sampling, Talker
from tests.made import processes
from tests.made.tiny import save_tiny

NAMES = ("secret-mercury", "secret-venus")


@pytest.fixture(scope="module")
def talkers(tmp_path_factory) -> list[Talker]:
    """Two models that answer differently; their folders are their names."""
    folder = tmp_path_factory.mktemp("models")
    return [Talker.load(save_tiny(folder / name, seed), "chatml") for seed, name in enumerate(NAMES)]


@pytest.fixture
def ratings(tmp_path) -> Path:
    return tmp_path / "made" / "ratings.jsonl"


@pytest.fixture
def serve(ratings):
    servers = []

    def begin(talkers: list[Talker], max_new_tokens: int = 24) -> str:
        room = chat_web.Room(talkers, Sampling(max_new_tokens, 0.0), ratings)
        app = chat_web.build_app(room, ["127.0.0.1"])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        processes.wait_until(lambda: server.started)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join(processes.SECONDS)


def post(url: str, path: str, **body: str) -> httpx2.Response:
    return httpx2.post(url + path, json=body, timeout=60)


def converse(url: str, *questions: str, system: str = "") -> tuple[str, list[dict]]:
    """(id, every event) of a conversation."""
    id = post(url, "/api/start", system=system).json()["id"]
    events = [json.loads(line) for text in questions for line in post(url, "/api/ask", id=id, text=text).text.splitlines()]
    return id, events


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_rating_holds_the_preferred_conversation_and_both_answers(talkers, serve, ratings):
    url = serve(talkers)
    id, events = converse(url, "Why is the sky dark?", "And then?", system="Be brief.")
    models = post(url, "/api/rate", id=id, choice="right").json()["models"]
    (line,) = lines(ratings)
    said = {
        side: "".join(e["piece"] for e in events[events.index({"end": True}) + 1 :] if e.get("side") == side and "piece" in e)
        for side in (0, 1)
    }
    assert [Path(name).name for name in line["meta"]["preferred"]] == [models[1]] and sorted(models) == sorted(NAMES), "no folder is told"
    assert [turn["role"] for turn in line["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert line["messages"][-1]["content"] == said[1].strip() != said[0].strip()
    for side, name in enumerate(models):
        (talker,) = (talker for talker in talkers if Path(talker.name).name == name)
        turns = [Turn("system", "Be brief."), Turn("user", "Why is the sky dark?")]
        first = line["meta"]["answers"][side]["messages"][2]["content"]
        assert first == "".join(talker.answer(turns, Sampling(24, 0.0))).strip()  # all of it, on both sides
    left, right = line["meta"]["answers"]
    assert (Path(left["model"]).name, Path(right["model"]).name) == tuple(models) and left["messages"][-1]["content"] == said[0].strip()
    assert right["messages"] == line["messages"]
    (read,) = read_record(line)
    assert [(turn.role, turn.text) for turn in read.turns] == [(m["role"], m["content"]) for m in line["messages"]]


def test_nothing_sent_before_the_rating_tells_a_model(talkers, serve):
    url = serve(talkers)
    sent = "".join(httpx2.get(url + path).text for path in ("/", "/page.js", "/page.css"))
    started = post(url, "/api/start")
    sent, id = sent + started.text, started.json()["id"]
    sent += post(url, "/api/ask", id=id, text="Why?").text
    sent += post(url, "/api/rate", id=id, choice="nonsense").text + post(url, "/api/ask", id=id, text="x" * 5000).text
    assert "more than the model's 256" in sent and not any(name in sent for name in (*NAMES, "secret"))
    told = post(url, "/api/rate", id=id, choice="left").text
    assert all(name in told for name in NAMES)


def test_the_sides_are_shuffled(talkers, serve, ratings):
    room = chat_web.Room(talkers, Sampling(4, 0.0), ratings)
    left = [room.start("").sides[0].name for _ in range(200)]
    assert 60 < left.count(talkers[0].name) < 140  # outside once in 10^8 runs


def test_ratings_that_prefer_nothing_stay_out_of_the_training_file(talkers, serve, ratings):
    url = serve(talkers)
    for choice in ("neither", "tie", "left", "neither"):
        id, _ = converse(url, "Why?")
        assert post(url, "/api/rate", id=id, choice=choice).status_code == 200
    assert [line["meta"]["rating"] for line in lines(ratings)] == ["tie", "left"]
    assert [line["meta"]["rating"] for line in lines(chat_ratings.unpreferred(ratings))] == ["neither", "neither"]
    assert len(lines(ratings)[0]["meta"]["preferred"]) == 2 and lines(chat_ratings.unpreferred(ratings))[0]["meta"]["preferred"] == []


def test_a_conversation_is_rated_once_and_only_after_an_answer(talkers, serve, ratings):
    url = serve(talkers)
    id = post(url, "/api/start").json()["id"]
    assert post(url, "/api/rate", id=id, choice="left").status_code == 409
    id, _ = converse(url, "Why?")
    told = [post(url, "/api/rate", id=id, choice=choice) for choice in ("left", "left", "right")]
    assert [one.status_code for one in told] == [200, 200, 409] and told[0].json() == told[1].json(), "asked again after a lost answer"
    assert post(url, "/api/ask", id=id, text="More?").status_code == 409 and len(lines(ratings)) == 1


def test_one_model_alone_can_be_rated_good_or_not_good(talkers, serve, ratings):
    url = serve(talkers[:1])
    id, _ = converse(url, "Why?")
    assert post(url, "/api/rate", id=id, choice="right").status_code == 400
    assert post(url, "/api/rate", id=id, choice="left").json() == {"models": [Path(talkers[0].name).name]}


@pytest.mark.parametrize(
    "status, call",
    [
        (404, {"json": {"id": "x", "text": "a"}}),
        (400, {"json": {"id": "x"}}),
        (400, {"json": ["id"]}),
        (400, {"content": '{"id": "x", "text": "\\ud800"}', "headers": {"content-type": "application/json"}}),
        (413, {"json": {"id": "x", "text": "a" * (chat_web.LONGEST_TEXT + 1)}}),
        (413, {"json": {"id": "x", "text": "a" * chat_web.LONGEST_BODY}}),
        (400, {"content": "{", "headers": {"content-type": "application/json"}}),
        (415, {"content": '{"id": "x", "text": "a"}', "headers": {"content-type": "text/plain"}}),
        (400, {"json": {"id": "x", "text": "a"}, "headers": {"host": "evil.example"}}),
    ],
)
def test_a_request_that_no_page_of_ours_sends_is_refused(talkers, serve, status, call):
    assert httpx2.post(serve(talkers) + "/api/ask", **call).status_code == status


def test_a_page_closed_while_the_answer_is_written_leaves_the_conversation_as_it_was(serve, tmp_path):
    endless = save_tiny(tmp_path / "endless", max_position_embeddings=100_000, eos_token_id=None)
    (endless / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    url = serve([Talker.load(endless)], max_new_tokens=90_000)
    id = post(url, "/api/start").json()["id"]
    before = threading.active_count()
    with httpx2.stream("POST", url + "/api/ask", json={"id": id, "text": "Why?"}, timeout=60) as response:
        assert response.status_code == 200
        assert post(url, "/api/ask", id=id, text="Me too").status_code in (200, 409)  # 200 with an error line, or refused
    end = time.monotonic() + 60
    while post(url, "/api/rate", id=id, choice="left").json()["error"] == "The answers are still being written." and time.monotonic() < end:
        time.sleep(0.1)
    assert post(url, "/api/rate", id=id, choice="left").json()["error"] == "There is no answer to rate yet."
    assert threading.active_count() <= before + 6  # the writing thread ended; asyncio's own few stay


def test_half_a_line_in_the_ratings_does_not_spoil_the_next(ratings):
    chat_ratings.append_durably(ratings, {"a": 1})
    with open(ratings, "ab") as file:
        file.write(b'{"half": ')
    chat_ratings.append_durably(ratings, {"b": 2})
    assert ratings.read_bytes().splitlines() == [b'{"a": 1}', b'{"half": ', b'{"b": 2}']


def test_old_conversations_are_forgotten(talkers, ratings, monkeypatch):
    monkeypatch.setattr(chat_room, "MOST_CONVERSATIONS", 3)
    room = chat_web.Room(talkers, Sampling(4, 0.0), ratings)
    ids = [room.start("").id for _ in range(5)]
    assert list(room.comparisons) == ids[2:]


def test_a_port_in_use_is_one_message(talkers, serve, ratings, capsys):
    port = int(serve(talkers).rpartition(":")[2])
    assert chat_web.serve(talkers, Sampling(), ratings, "127.0.0.1", port) == 1
    assert f"--port {port}" in capsys.readouterr().err


WRITTEN = "!document.querySelector('.writing') && !document.getElementById('send').disabled"


@pytest.mark.slow
def test_in_a_browser_two_models_are_compared_blind_and_the_rating_tells_them(browser, talkers, serve, ratings, tmp_path):
    browser.open(serve(talkers))
    browser.wait("document.querySelectorAll('section').length === 2")
    assert browser.js("[...document.querySelectorAll('h2')].map(h => h.textContent)") == ["Model A", "Model B"]
    assert not browser.js("document.getElementById('rating').checkVisibility()")
    browser.type("#text", "Why is <img src=x onerror=document.title='broken'> the sky dark?\ue007")  # the key Enter
    browser.wait(WRITTEN)
    browser.type("#text", "And then?")
    browser.click("#send")
    browser.wait("document.querySelectorAll('.user').length === 4 && " + WRITTEN)
    browser.click("#plain")  # as the models wrote it
    shown = browser.js("[...document.querySelectorAll('.assistant')].map(a => a.textContent)")
    assert len(shown) == 4 and browser.js("document.querySelectorAll('img').length") == 0
    assert "<img src=x" in browser.js("document.querySelector('.user').textContent")
    assert not any(name in browser.js("document.documentElement.outerHTML") for name in NAMES)
    browser.screenshot(tmp_path / "asked.png")
    browser.click("[data-choice=right]")
    browser.wait("document.getElementById('note').textContent.startsWith('Saved')")
    titles = browser.js("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    (line,) = lines(ratings)
    assert titles[0].startswith("Model A: ") and titles[1] == f"Model B: {Path(line['meta']['preferred'][0]).name}"
    assert line["messages"][-1]["content"] == shown[3].strip() and "<img src=x" in line["messages"][0]["content"]
    assert browser.js("document.querySelectorAll('section.preferred').length") == 1
    assert not browser.js("document.getElementById('ask').checkVisibility()")
    browser.screenshot(tmp_path / "rated.png")
    browser.click("#anew")
    browser.wait("document.querySelectorAll('.user').length === 0 && document.getElementById('ask').checkVisibility()")
    assert browser.js("document.querySelectorAll('h2')[0].textContent") == "Model A"
    assert browser.js("document.title") == "Compare answers" and browser.console() == []


@pytest.mark.slow
def test_in_a_browser_a_refused_question_comes_back_with_the_reason(browser, talkers, serve):
    browser.open(serve(talkers))
    browser.wait("document.querySelectorAll('section').length === 2")
    browser.type("#text", "x" * 400)
    browser.click("#send")
    browser.wait("document.getElementById('note').textContent.includes('more than the model')")
    assert browser.js("document.getElementById('text').value") == "x" * 400
    assert browser.js("document.querySelectorAll('.user').length") == 0


@pytest.mark.slow
def test_in_a_browser_a_system_prompt_reaches_the_models_and_one_model_can_be_rated(browser, talkers, serve, ratings):
    browser.open(serve(talkers[:1]))
    browser.wait("document.querySelectorAll('section').length === 1")
    browser.click("summary")
    browser.type("#system", "Be brief.")
    browser.click("#text")
    browser.wait("document.activeElement.id === 'text'")
    browser.type("#text", "Why?\ue007")
    browser.wait("document.querySelectorAll('.assistant').length === 1 && " + WRITTEN)
    browser.click("[data-choice=left]")
    browser.wait("document.getElementById('note').textContent.startsWith('Saved')")
    assert [turn["content"] for turn in lines(ratings)[0]["messages"]][:2] == ["Be brief.", "Why?"]


def test_asking_twice_at_once_is_answered_once(talkers, ratings):
    async def both() -> list[list[dict]]:
        room = chat_web.Room(talkers[:1], Sampling(8, 0.0), ratings)
        comparison = room.start("")

        async def ask(text: str) -> list[dict]:
            return [event async for event in room.ask(comparison, text)]

        return await asyncio.gather(ask("Why?"), ask("How?"))

    first, second = asyncio.run(both())
    assert first[-1] == {"end": True} and second == [{"error": "The answers are still being written."}]
