"""What is seen while answers are written: in a real browser, wide and narrow, with a server that stops and comes back."""

import json
import socket
import threading
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("starlette", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

import uvicorn

from data_tools.chat.conversations import Turn
from launch.talk import web
from launch.talk.model import Sampling
from tests.made import processes

SAMPLING = Sampling(100, 0.0)
LONG = [f"Line {number} of an answer about the ages of stars in a cluster.\n" for number in range(40)]


class Scripted:
    """In the place of a model: it answers with `pieces`, one token a character; after each piece it waits for `gate`."""

    def __init__(self, pieces: list[str], context: int = 10_000, ends: str | None = None, name: str = "secret-one"):
        self.name, self.format, self.context, self.pieces, self.ends = name, "plain", context, pieces, ends
        self.gate = threading.Event()
        self.gate.set()
        self.stopped = threading.Event()

    def longest(self, sampling: Sampling) -> int:
        return sampling.max_new_tokens

    def has_room(self, tokens: int, sampling: Sampling) -> bool:
        return tokens + self.longest(sampling) <= self.context

    def prompt(self, turns: list[Turn]) -> list[int]:
        return [1] * sum(len(turn.text) for turn in turns)

    def fit(self, turns: list[Turn], sampling: Sampling) -> list[Turn]:
        while len(turns) > 2 and not self.has_room(len(self.prompt(turns)), sampling):
            turns = turns[2:]
        return turns

    def answer(self, turns: list[Turn], sampling: Sampling, stop: threading.Event) -> Generator[str, None, str | None]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
            while not self.gate.wait(0.02) and not stop.is_set():
                pass
            if stop.is_set():
                self.stopped.set()
                return None
        return self.ends


class Served:
    """A page under an address that stays the same when its server is killed and begun again."""

    def __init__(self, talkers: list[Scripted], ratings: Path):
        self.ratings = ratings
        with socket.create_server(("127.0.0.1", 0)) as any_free:
            self.port = any_free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.begin(talkers)

    def begin(self, talkers: list[Scripted]) -> None:
        self.room = web.Room(talkers, SAMPLING, self.ratings)
        app = web.build_app(self.room, ["127.0.0.1"])
        self.server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="critical", timeout_graceful_shutdown=0))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        processes.wait_until(lambda: self.server.started)

    def kill(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(processes.SECONDS)


@pytest.fixture
def serve(tmp_path):
    begun = []

    def begin(*talkers: Scripted) -> Served:
        begun.append(Served(list(talkers), tmp_path / "ratings.jsonl"))
        return begun[-1]

    yield begin
    for served in begun:
        served.kill()


WRITTEN = "!document.querySelector('.writing') && !document.getElementById('send').disabled"
# nothing that is read or clicked may lie under something else, or outside the window: what is at its middle is itself
SEEN = """(selector => { const node = document.querySelectorAll(selector), last = node[node.length - 1], box = last.getBoundingClientRect();
const at = document.elementFromPoint(box.left + box.width / 2, Math.min(box.bottom - 2, innerHeight + 1));
return box.bottom <= innerHeight && box.right <= innerWidth && box.left >= 0 && (at === last || last.contains(at)); })"""


def ask(browser, text: str, answers: int) -> None:
    browser.type("#text", text + "\ue007")
    browser.wait(f"document.querySelectorAll('.assistant').length === {answers} && " + WRITTEN)


@pytest.mark.slow
@pytest.mark.parametrize("width, height, models", [(1280, 800, 2), (400, 800, 1), (400, 800, 2), (800, 380, 2)])
def test_three_turns_leave_the_last_lines_and_the_rating_in_sight(browser, serve, tmp_path, width, height, models):
    browser.width(width, height)
    browser.open(serve(*[Scripted(LONG, name=f"secret-{n}") for n in range(models)]).url)
    browser.wait(f"document.querySelectorAll('section').length === {models}")
    for turn in (1, 2, 3):
        ask(browser, f"Question {turn}", turn * models)
        seen = {css: browser.js(f"{SEEN}('{css}')") for css in (".mark", "#rating button", "#text", "#send", "#anew")}
        assert all(seen.values()), (turn, seen)
        assert browser.js("document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight")
    browser.screenshot(tmp_path / f"three-{width}-{models}.png")
    assert browser.console() == []


def note(browser) -> str:
    return browser.js("document.getElementById('note').textContent")


@pytest.mark.slow
def test_the_page_follows_the_answer_unless_the_reader_looks_up(browser, serve):
    talker = Scripted([*LONG, "half", " end"])
    browser.width(400)
    browser.open(serve(talker).url)
    browser.wait("document.querySelectorAll('section').length === 1")
    ask(browser, "First", 1)
    gates = threading.Semaphore(0)
    talker.gate.wait = lambda timeout: gates.acquire(timeout=timeout)  # piece by piece
    browser.type("#text", "Second\ue007")
    for _ in range(30):
        gates.release()
    browser.wait("document.querySelectorAll('.assistant')[1]?.textContent.includes('Line 30')")
    assert browser.js(f"{SEEN}('.mark')") and not browser.js("document.getElementById('down').checkVisibility()")
    browser.js("document.getElementById('view').scrollTop = 0")
    browser.wait("document.getElementById('down').checkVisibility()")
    gates.release()
    browser.wait("document.querySelectorAll('.assistant')[1].textContent.includes('Line 31')")
    assert browser.js("document.getElementById('view').scrollTop") == 0  # what is read stays where it is
    browser.click("#down")
    for _ in range(30):
        gates.release()
    browser.wait(WRITTEN)
    assert browser.js(f"{SEEN}('.mark')") and not browser.js("document.getElementById('down').checkVisibility()")


@pytest.mark.slow
def test_stop_ends_the_answer_on_the_server_and_marks_it_and_so_does_its_length(browser, serve, tmp_path):
    talker = Scripted(["Stars ", "are ", "far."])
    served = serve(talker)
    browser.width(400)
    browser.open(served.url)
    browser.wait("document.querySelectorAll('section').length === 1")
    talker.gate.clear()
    browser.type("#text", "Why?\ue007")
    browser.wait("document.querySelector('.assistant')?.textContent.trim() === 'Stars'")
    browser.click("#stop")
    browser.wait(WRITTEN)
    assert talker.stopped.wait(processes.SECONDS)
    assert browser.js("document.querySelector('.mark').textContent").startswith("Stopped here.")
    talker.gate.set()
    talker.ends = "length"
    ask(browser, "And?", 2)
    assert "Cut off: the longest answer is 100 tokens" in browser.js("document.querySelectorAll('.mark')[1].textContent")
    browser.screenshot(tmp_path / "cut.png")
    browser.click("[data-choice=left]")
    browser.wait("document.getElementById('note').textContent.startsWith('Saved')")
    (line,) = [json.loads(line) for line in served.ratings.read_text().splitlines()]
    assert line["meta"]["answers"][0]["cut"] == ["stopped", "length"] and not line["meta"]["restored"]
    assert [turn["content"] for turn in line["messages"]] == ["Why?", "Stars", "And?", "Stars are far."]


@pytest.mark.slow
def test_a_model_that_fails_is_told_in_a_sentence_and_the_question_comes_back(browser, serve):
    talker = Scripted(["Half", RuntimeError('CUDA error {"x": 1}')])
    browser.width(1280)
    browser.open(serve(talker).url)
    browser.wait("document.querySelectorAll('section').length === 1")
    browser.type("#text", "Why?\ue007")
    browser.wait("document.getElementById('note').textContent !== ''")
    assert note(browser).startswith("The model failed (RuntimeError)") and "{" not in note(browser)
    assert browser.js("document.getElementById('text').value") == "Why?"
    assert "not kept" in browser.js("document.querySelector('.mark').textContent")
    talker.pieces = ["Whole."]
    browser.click("#send")
    browser.wait("document.querySelector('.assistant').textContent.trim() === 'Whole.' && " + WRITTEN)
    assert browser.js("document.querySelectorAll('.user').length") == 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_a_server_that_is_killed_and_comes_back_loses_nothing(browser, serve, tmp_path, width):
    talkers = [Scripted(["Stars ", "are far."], name=f"secret-{n}") for n in range(2)]
    served = serve(*talkers)
    browser.width(width)
    browser.open(served.url)
    browser.wait("document.querySelectorAll('section').length === 2")
    ask(browser, "Why?", 2)
    order = [talker.name for talker in next(iter(served.room.comparisons.values())).sides]
    for talker in talkers:
        talker.gate.clear()
    browser.type("#text", "And then?\ue007")
    browser.wait("document.querySelectorAll('.assistant')[1]?.textContent.trim() === 'Stars'")
    served.kill()
    browser.wait("document.getElementById('note').textContent.startsWith('The server does not answer')")
    assert browser.js("document.getElementById('text').value") == "And then?" and browser.js(f"{SEEN}('#again')")
    browser.screenshot(tmp_path / "gone.png")
    browser.click("#again")
    browser.wait(
        "document.getElementById('again').checkVisibility() && document.getElementById('note').textContent.startsWith('The server')"
    )
    for talker in talkers:
        talker.gate.set()
    served.begin(talkers)
    browser.click("#again")
    browser.wait("document.querySelectorAll('.assistant').length === 4 && " + WRITTEN)
    assert note(browser) == "" and browser.js("document.getElementById('text').value") == ""
    browser.click("[data-choice=right]")
    browser.wait("document.getElementById('note').textContent.startsWith('Saved')")
    (line,) = [json.loads(line) for line in served.ratings.read_text().splitlines()]
    assert [answer["model"] for answer in line["meta"]["answers"]] == order and line["meta"]["restored"]
    assert [turn["content"] for turn in line["messages"]] == ["Why?", "Stars are far.", "And then?", "Stars are far."]


@pytest.mark.slow
def test_a_reload_keeps_the_conversation_and_another_model_is_told(browser, serve):
    served = serve(Scripted(["Stars are far."], ends="length"))
    browser.width(1280)
    browser.open(served.url)
    browser.wait("document.querySelectorAll('section').length === 1")
    ask(browser, "Why?", 1)
    browser.type("#text", "half a quest")
    browser.open(served.url)
    browser.wait("document.querySelectorAll('.assistant').length === 1 && document.getElementById('rating').checkVisibility()")
    assert browser.js("document.getElementById('text').value") == "half a quest"
    assert "Cut off" in browser.js("document.querySelector('.mark').textContent")
    browser.type("#text", "ion\ue007")
    browser.wait("document.querySelectorAll('.assistant').length === 2 && " + WRITTEN)
    served.kill()
    served.begin([Scripted(["Else"], name="another")])
    browser.open(served.url)
    browser.wait("document.getElementById('note').textContent.startsWith('Another model is served now')")
    assert browser.js("document.querySelectorAll('.user')[1].textContent") == "half a question"
    assert not browser.js("document.getElementById('ask').checkVisibility()")
    browser.click("#anew")
    browser.wait("document.querySelectorAll('.assistant').length === 0 && document.getElementById('ask').checkVisibility()")
    browser.open(served.url)
    browser.wait("document.querySelectorAll('section').length === 1")
    assert browser.js("document.querySelectorAll('.user').length") == 0 and note(browser) == ""


@pytest.mark.slow
def test_an_answer_whose_end_got_lost_is_not_asked_for_twice(browser, serve):
    served = serve(Scripted(["Stars are far."]))
    browser.width(1280)
    browser.open(served.url)
    browser.wait("document.querySelectorAll('section').length === 1")
    browser.js("window.whole = TextDecoderStream")
    drop = "class extends TransformStream { constructor() { super({ transform: (data, out) => { void data; } }); } }"
    browser.js(f"window.TextDecoderStream = {drop}")  # a line that breaks after the server has sent everything
    browser.type("#text", "Why?\ue007")
    browser.wait("document.getElementById('again').checkVisibility()")
    browser.js("window.TextDecoderStream = window.whole")
    browser.click("#again")
    browser.wait("document.querySelector('.assistant')?.textContent.trim() === 'Stars are far.' && " + WRITTEN)
    assert browser.js("document.getElementById('text').value") == "" and note(browser) == ""
    (comparison,) = served.room.comparisons.values()
    assert [turn.text for turn in comparison.turns[0]] == ["Why?", "Stars are far."]


@pytest.mark.slow
def test_a_reload_while_an_answer_is_written_keeps_the_question(browser, serve):
    talker = Scripted(["Stars ", "are far."])
    served = serve(talker)
    browser.width(400)
    browser.open(served.url)
    browser.wait("document.querySelectorAll('section').length === 1")
    ask(browser, "Why?", 1)
    talker.gate.clear()
    browser.type("#text", "And then?\ue007")
    browser.wait("document.querySelectorAll('.assistant')[1]?.textContent.trim() === 'Stars'")
    browser.open(served.url)
    assert talker.stopped.wait(processes.SECONDS)  # nobody reads on: the server does not write on
    talker.gate.set()
    (comparison,) = served.room.comparisons.values()
    processes.wait_until(lambda: not comparison.busy)
    browser.wait("document.querySelectorAll('.user').length > 0 && document.getElementById('note').textContent === '' && " + WRITTEN)
    kept, typed = len(comparison.turns[0]) // 2, browser.js("document.getElementById('text').value")
    # the answer that was begun is kept as stopped, or its question is back in the box: which, is who comes first
    browser.wait(f"document.querySelectorAll('.user').length === {kept}")
    assert (kept, typed) in [(1, "And then?"), (2, "")]


@pytest.mark.slow
def test_a_page_whose_kept_conversation_is_spoiled_begins_anew(browser, serve):
    browser.width(1280)
    browser.open(serve(Scripted(["a"])).url)
    for spoiled in ('"{"', """'{"version": 1, "sides": [3]}'""", """'{"version": 0, "sides": []}'""", """'{"version": 1, "sides": []}'"""):
        browser.wait("document.querySelectorAll('section').length === 1")
        browser.js(f"sessionStorage.setItem('astrollama.conversation', {spoiled})")
        browser.js("window.old = true")
        browser.js("location.reload()")
        browser.wait("!window.old && document.querySelectorAll('section').length === 1")
    ask(browser, "Why?", 1)


@pytest.mark.slow
def test_a_long_text_is_measured_before_it_is_sent(browser, serve, tmp_path):
    browser.width(400)
    browser.open(serve(Scripted(["x" * 700, "."], context=1000)).url)
    browser.wait("document.querySelectorAll('section').length === 1")
    ask(browser, "Why?", 1)

    def paste(text: str) -> None:
        value = f"document.getElementById('text').value = {text}"
        browser.js(f"({value}, document.getElementById('text').dispatchEvent(new Event('input')))")

    paste("'x'.repeat(1100)")
    browser.wait("document.getElementById('size').textContent.includes('1,100 tokens')")
    told = browser.js("document.getElementById('size').textContent")
    assert told.startswith("1,100 characters") and "the model holds 1,000, 100 of them for its answer" in told and "Too long" in told
    browser.screenshot(tmp_path / "long.png")
    paste(f"'x'.repeat({web.LONGEST_TEXT} + 1)")
    browser.wait("document.getElementById('size').textContent.includes('too long to send')")
    assert browser.js("document.getElementById('send').disabled")
    paste("'x'.repeat(800)")
    assert browser.js("document.getElementById('size').textContent") == "" and not browser.js("document.getElementById('send').disabled")
    browser.click("#send")
    browser.wait("document.querySelectorAll('.assistant').length === 2 && " + WRITTEN)
    assert "The first 2 messages were left out" in browser.js("document.querySelectorAll('.mark')[1].textContent")


def test_a_conversation_that_no_page_kept_is_not_restored(serve, tmp_path):
    served = serve(Scripted(["a"], name="one"), Scripted(["b"], name="two"))
    models = served.room.models
    good = [["Why?", "Because.", None]]
    for status, id, sides in [
        (200, "A" * 22, [good, [["Why?", "Else.", "length"]]]),
        (400, "B" * 22, [good]),
        (400, "B" * 22, [good, []]),
        (400, "B" * 22, [good, [["What?", "Else.", None]]]),
        (400, "B" * 22, [good, [["Why?", "Else.", "often"]]]),
        (400, "B" * 22, [good, [["Why?", 3, None]]]),
        (400, "B" * 22, [good, [["Why?", "\ud800", None]]]),
        (400, "../" * 9, [good, good]),
        (400, "B" * 22, None),
    ]:
        answer = httpx2.post(
            served.url + "/api/restore",
            content=json.dumps({"id": id, "models": models, "sides": sides}),
            headers={"content-type": "application/json"},
            timeout=60,
        )
        assert answer.status_code == status, (answer.text, sides)
    other = httpx2.post(served.url + "/api/restore", json={"id": "C" * 22, "models": "x", "sides": [good, good]}, timeout=60)
    assert other.status_code == 410 and other.json()["error"].startswith("Another model") and len(served.room.comparisons) == 1


def test_a_rating_that_the_disk_does_not_take_is_told_and_can_be_given_again(serve, tmp_path):
    served = serve(Scripted(["a"]))
    id = httpx2.post(served.url + "/api/start", json={}, timeout=60).json()["id"]
    httpx2.post(served.url + "/api/ask", json={"id": id, "text": "Why?"}, timeout=60)
    served.ratings.mkdir()
    failed = httpx2.post(served.url + "/api/rate", json={"id": id, "choice": "left"}, timeout=60)
    assert failed.json()["error"].startswith("The rating is not saved") and failed.status_code == 507
    served.ratings.rmdir()
    assert httpx2.post(served.url + "/api/rate", json={"id": id, "choice": "left"}, timeout=60).status_code == 200


def test_a_server_begun_again_puts_the_models_on_the_same_sides(tmp_path):
    talkers = [Scripted([], name=name) for name in ("one", "two")]
    before, after = (web.Room(order, SAMPLING, tmp_path / "ratings.jsonl") for order in (talkers, talkers[::-1]))
    for _ in range(50):
        comparison = before.start("")
        again = after.restore(comparison.id, before.models, "", [[["Why?", "So.", None]]] * 2)
        assert [talker.name for talker in again.sides] == [talker.name for talker in comparison.sides]
