"""Many visitors at once, several models, a server killed and started again: each rating on the disk once; floods refused; sums that hold."""

import asyncio
import itertools
import json
import math
import sys
from pathlib import Path

import httpx2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

from launch import chat
from launch.talk.floods import Floods
from launch.talk.model import Sampling
from launch.talk.ratings import Ratings, unpreferred
from launch.talk.room import Room, shown
from launch.talk.verdict import SCALE, Game, bradley_terry, games, summary
from launch.talk.web import build_app
from tests.made import processes
from tests.made.tiny import save_tiny
from tests.made.where import ROOT

CHOICES = ("left", "right", "tie", "neither")


class Quick:
    """A model that says its number."""

    format, context = "scripted", 4096

    def __init__(self, name: str):
        self.name = name

    def fit(self, turns, sampling):
        return turns

    def prompt(self, turns):
        return [1] * len(turns)

    def longest(self, sampling):
        return 8

    def has_room(self, tokens, sampling):
        return True

    def answer(self, turns, sampling, stop):
        yield f"from {self.name[-1]}"
        return None


def written(ratings: Path) -> list[dict]:
    files = [path for path in (ratings, unpreferred(ratings)) if path.is_file()]
    return [json.loads(text) for path in files for text in path.read_text().splitlines()]


class Visitor:
    """What the page does: asks again when the server is gone, tells it what was said when it has forgotten, rates once."""

    def __init__(self, client: httpx2.AsyncClient, number: int):
        self.client, self.number, self.choice = client, number, CHOICES[number % 4]
        self.id, self.models, self.sides = "", "", []

    async def post(self, path: str, **body):
        for _ in range(1500):
            try:
                answer = await self.client.post(path, json=body)
            except httpx2.HTTPError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == 404 and path != "/api/restore" and self.id:
                await self.post("/api/restore", id=self.id, models=self.models, sides=self.sides)
                continue
            if answer.status_code != 429:
                return answer
            await asyncio.sleep(0.5)
        raise AssertionError(f"visitor {self.number}: no answer to {path}")

    async def visit(self) -> None:
        about = (await self.post("/api/start")).json()
        self.id, self.models, self.sides = about["id"], about["models"], [[] for _ in range(about["sides"])]
        question = f"Question {self.number}?"
        while not self.sides[0]:
            said = ["" for _ in self.sides]
            events = [json.loads(line) for line in (await self.post("/api/ask", id=self.id, text=question)).text.splitlines()]
            for event in events:
                if "piece" in event:
                    said[event["side"]] += event["piece"]
            if events and "end" in events[-1]:
                self.sides = [[[question, one, None]] for one in said]
            elif not (events and "error" in events[-1]):  # broken off: the page tells the server what it knows, and asks again
                kept = (await self.post("/api/restore", id=self.id, models=self.models, sides=self.sides)).json()["kept"]
                self.sides = kept
        told = await self.post("/api/rate", id=self.id, choice=self.choice, comment=f"because {self.number}")
        assert told.status_code == 200 and len(told.json()["models"]) == 2, told.text


async def visits(url: str, count: int, meanwhile) -> list[Visitor]:
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=httpx2.Limits(max_connections=count)) as client:
        visitors = [Visitor(client, number) for number in range(count)]
        await asyncio.gather(*(visitor.visit() for visitor in visitors), meanwhile())
    return visitors


def check(ratings: Path, visitors: list[Visitor]) -> None:
    lines = written(ratings)
    assert sorted(line["id"] for line in lines) == sorted(visitor.id for visitor in visitors), "none lost, none doubled"
    by_id = {line["id"]: line["meta"] for line in lines}
    for visitor in visitors:
        meta = by_id[visitor.id]
        assert (meta["rating"], meta["comment"]) == (visitor.choice, f"because {visitor.number}")
        assert all(answer["messages"][0]["content"] == f"Question {visitor.number}?" for answer in meta["answers"])


def test_fifty_visitors_at_once_and_a_server_that_begins_anew_lose_and_double_nothing(tmp_path):
    """Two rooms on one file take over from each other in the middle, as a server that was killed and started again does."""
    ratings, talkers = tmp_path / "ratings.jsonl", [Quick(f"/secret/folder/model{n}") for n in range(3)]
    rooms = [Room(talkers, Sampling(8, 0.0), ratings)]
    apps = [build_app(rooms[0], ["*"])]

    async def serve(scope, receive, send):
        await apps[-1](scope, receive, send)

    async def meanwhile():
        while len(written(ratings)) < 20:
            await asyncio.sleep(0.005)
        rooms.append(Room(talkers, Sampling(8, 0.0), ratings))
        apps.append(build_app(rooms[-1], ["*"]))

    async def all_of_it() -> list[Visitor]:
        transport = httpx2.ASGITransport(app=serve)
        async with httpx2.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
            visitors = [Visitor(client, number) for number in range(50)]
            await asyncio.gather(*(visitor.visit() for visitor in visitors), meanwhile())
            again = [await v.client.post("/api/rate", json={"id": v.id, "choice": v.choice}) for v in visitors[:5]]
            assert {answer.status_code for answer in again} <= {200, 404}
        return visitors

    check(ratings, asyncio.run(all_of_it()))
    assert rooms[0].count and rooms[1].count and rooms[0].count + rooms[1].count == 50 and not rooms[0].line and not rooms[1].line
    met = {tuple(sorted(a["model"] for a in line["meta"]["answers"])) for line in written(ratings)}
    assert len(met) == 3, "every pair is drawn"


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_fifty_visitors_and_a_real_server_killed_in_the_middle(tmp_path):
    folders = [save_tiny(tmp_path / f"model{n}", n) for n in range(3)]
    ratings, port = tmp_path / "ratings.jsonl", processes.free_port()
    words = [sys.executable, ROOT / "launch" / "chat.py", folders[0], "--web", "--compare", *folders[1:], "--port", str(port)]
    words += ["--template", "chatml", "--max-new-tokens", "4", "--ratings", str(ratings)]
    servers = [processes.start(words, **processes.QUIET)]

    async def meanwhile():
        while len(written(ratings)) < 15:
            await asyncio.sleep(0.02)
        servers[-1].kill()
        servers[-1].wait(processes.SECONDS)
        servers.append(processes.start(words, **processes.QUIET))

    try:
        visitors = asyncio.run(visits(f"http://127.0.0.1:{port}", 50, meanwhile))
    finally:
        for server in servers:
            processes.end(server)
    check(ratings, visitors)


def test_a_rating_asked_for_again_by_another_server_is_one(tmp_path):
    first, second = Ratings(tmp_path / "r.jsonl"), Ratings(tmp_path / "r.jsonl")
    line = {"id": "a" * 22, "meta": {"rating": "left"}}
    assert [one.add(line, liked) for one, liked in ((first, True), (second, True), (first, False))] == [None, "left", "left"]
    other = {"id": "b" * 22, "meta": {"rating": "neither"}}
    assert [one.add(other, liked) for one, liked in ((second, False), (first, True))] == [None, "neither"]
    with open(tmp_path / "r.jsonl", "ab") as file:
        file.write(b'{"id": "half')  # a crash
    assert Ratings(tmp_path / "r.jsonl").add({"id": "c" * 22, "meta": {"rating": "tie"}}, True) is None
    assert [json.loads(text)["id"][0] for text in (tmp_path / "r.jsonl").read_text().splitlines() if text.endswith("}")] == ["a", "c"]


def test_a_flood_from_one_address_is_refused_and_others_are_not(tmp_path):
    floods = Floods(burst=10, per_second=2)
    assert (
        [floods.refuse("a", 1, 100.0) for _ in range(10)] == [0] * 10
        and floods.refuse("a", 1, 100.0) == 1
        and floods.refuse("a", 5, 100.0) == 3
    )
    assert floods.refuse("b", 5, 100.0) == 0 and floods.refuse("a", 1, 100.5) == 0 and floods.refuse("a", 1, 100.6) == 1
    app = build_app(Room([Quick("m")], Sampling(8, 0.0), tmp_path / "r.jsonl"), ["*"])

    async def hammer() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://here") as client:
            return [await client.post("/api/start", json={}) for _ in range(700)]

    answers = asyncio.run(hammer())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 0 < len(refused) < 110 and int(refused[0].headers["retry-after"]) >= 1 and "try again" in refused[0].json()["error"]


def test_visitors_see_no_folder_and_too_long_a_comment_is_refused(tmp_path):
    assert [shown(name) for name in ("/home/me/models/x", "runs/sft/checkpoints/step_000500", "x")] == ["x", "sft step_000500", "x"]
    app = build_app(Room([Quick("/home/me/a"), Quick("/home/me/b")], Sampling(8, 0.0), tmp_path / "r.jsonl"), ["*"])

    async def one() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://here") as client:
            id = (await client.post("/api/start", json={})).json()["id"]
            await client.post("/api/ask", json={"id": id, "text": "?"})
            return [await client.post("/api/rate", json={"id": id, "choice": "left", "comment": c}) for c in ("x" * 4001, ["no"], "fine")]

    answers = asyncio.run(one())
    assert [a.status_code for a in answers] == [413, 400, 200] and sorted(answers[2].json()["models"]) == ["a", "b"]


# -- sums


def game(number: int, left: str, right: str, rating: str) -> Game:
    return Game(str(number), (left, right), rating, "", "", ([], []))


def test_bradley_terry_is_the_posterior_s_maximum_and_finds_strengths_that_made_the_games():
    """Against Newton's method on the log posterior, written down anew; and on games drawn from known strengths."""
    rng, truth = np.random.default_rng(5), np.array([1.0, 0.2, -0.3, -0.9])
    wins, met = np.zeros(4), np.zeros((4, 4))
    for i, j in itertools.combinations(range(4), 2):
        won = rng.binomial(4000, 1 / (1 + math.exp(truth[j] - truth[i])))
        wins[i], wins[j], met[i, j], met[j, i] = wins[i] + won, wins[j] + 4000 - won, 4000, 4000
    assert np.abs(bradley_terry(wins, met) - truth).max() < 0.08
    for case in range(20):
        count = 2 + case % 4
        met = np.triu(rng.integers(0, 9, (count, count)), 1).astype(float)
        met = met + met.T
        share = np.triu(rng.integers(0, 3, (count, count)) / 2, 1)
        wins = (met * (share + np.tril(1 - share.T, -1))).sum(axis=1)
        theta = np.zeros(count)
        for _ in range(50):  # gradient and Hessian of sum of w log p + one tied game with a model of strength 1
            p = 1 / (1 + np.exp(theta[None] - theta[:, None]))
            q = 1 / (1 + np.exp(-theta))
            gradient = wins - (met * p).sum(axis=1) + 0.5 - q
            curve = met * p * (1 - p)
            hessian = curve - np.diag(curve.sum(axis=1) + q * (1 - q))
            theta = theta - np.linalg.solve(hessian, gradient)
        assert np.abs(bradley_terry(wins, met) - (theta - theta.mean())).max() < 1e-6, case


def test_win_rates_count_each_conversation_once_whichever_side_a_model_stood_on():
    played = [
        game(0, "a", "b", "left"),
        game(1, "b", "a", "right"),
        game(2, "a", "b", "tie"),
        game(3, "b", "a", "neither"),
        game(4, "b", "a", "left"),
    ]
    found = summary(played)
    a = found["models"]["a"]
    assert (a["games"], a["wins"], a["ties"], a["neither"], a["losses"], a["win_rate"]) == (5, 2, 1, 1, 1, 0.6)
    assert a["interval"][0] < 0.6 < a["interval"][1] and found["models"]["b"]["win_rate"] == 0.4
    assert a["strength"] == pytest.approx(-found["models"]["b"]["strength"]) and a["strength"] > 0 and found["pairs"][0]["p"] == 1.0
    never = summary([game(n, "a", "b", "left") for n in range(10)])["models"]["a"]["strength"]
    assert 0 < never < 10 * SCALE and summary([]) == {"ratings": 0, "models": {}, "pairs": []}


def test_results_are_read_from_what_the_page_wrote(tmp_path, capsys):
    ratings = tmp_path / "ratings.jsonl"
    assert chat.main(["--results", "--ratings", str(ratings)]) == 1 and "no such file" in capsys.readouterr().err
    app = build_app(Room([Quick(f"m/{n}") for n in "<ab"], Sampling(8, 0.0), ratings), ["*"])

    async def some() -> None:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://here") as client:
            for number in range(12):
                await Visitor(client, number).visit()

    asyncio.run(some())
    ratings.open("ab").write(ratings.read_bytes() + b"rubbish\n{}\n")  # doubled by hand
    assert len(games(ratings)) == 12 and chat.main(["--results", "--ratings", str(ratings)]) == 0
    told = json.loads((tmp_path / "ratings.json").read_text())
    html = (tmp_path / "ratings.html").read_text()
    assert told["ratings"] == 12 and sum(m["games"] for m in told["models"].values()) == 24
    assert (
        html.count("<details>") == 12
        and "because 3" in html
        and "m/&lt;" in html
        and "<script" not in html
        and "http" not in html.replace("http-equiv", "")
    )
    for wrong in (["--results", "model"], [], ["m", "--web", "--compare", "m"]):
        with pytest.raises(SystemExit):
            chat.main(wrong)
