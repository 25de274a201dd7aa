"""Who is talking to whom: the conversations of one server, whose turn it is, and what becomes of a rating.

start → a pair of models, drawn and laid left and right by the conversation's random id → ask, one at a time, the others in line →
rate: on the disk, once, before the names are told
"""

import asyncio
import datetime
import hashlib
import re
import secrets
import threading
import traceback
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.chat.conversations import Refused, Turn
from launch.talk.model import ModelError, Sampling, Talker
from launch.talk.ratings import Ratings

CHOICES = {"left": 0, "right": 1, "tie": 0, "neither": None}  # the side whose conversation is kept for training
MOST_CONVERSATIONS = 1000  # the oldest are forgotten: a page left open must not fill the memory
MOST_WAITING = 200  # questions in line
LONGEST_TEXT = 400_000  # characters
LONGEST_COMMENT = 4_000
CUTS = ("length", "stopped")  # why an answer may be no whole one
LOOK_SECONDS = 0.05  # whether it is one's turn


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
    line: list[object] = field(default_factory=list)  # questions; the first is being answered

    def __post_init__(self) -> None:
        self._kept = Ratings(self.ratings)

    @property
    def sides(self) -> int:
        """Models in a conversation: two of all that are served, or the one."""
        return min(2, len(self.talkers))

    @property
    def models(self) -> str:
        """What the page knows the served models by: another value for others, no name in it."""
        told = sorted(f"{talker.name}\n{talker.format}" for talker in self.talkers)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]

    def about(self, comparison: Comparison) -> dict[str, Any]:
        contexts = [talker.context for talker in self.talkers if talker.context is not None]
        return {
            "id": comparison.id,
            "sides": self.sides,
            "models": self.models,
            "context": min(contexts, default=None),
            "answer": max(talker.longest(self.sampling) for talker in self.talkers),
            "longest": LONGEST_TEXT,
        }

    def start(self, system: str, id: str | None = None) -> Comparison:
        id = secrets.token_urlsafe(16) if id is None else id
        # shuffled by the random id: the same sides again when the conversation outlives this server
        sides = sorted(self.talkers, key=lambda talker: hashlib.sha256(f"{id}\n{talker.name}".encode()).digest())[: self.sides]
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
        told = _exchanges(sides, self.sides)
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

        Before them {waiting}: questions in line before this one, whenever it changes.
        tokens: what the model reads; left_out: oldest messages that its context does not hold; cut: one of CUTS, or null.
        """
        if comparison.busy:  # two requests may have passed `find` together
            yield {"error": "The answers are still being written."}
            return
        if len(self.line) >= MOST_WAITING:
            yield {"error": f"{len(self.line)} questions are in line; ask again in a minute."}
            return
        comparison.busy, comparison.stop = True, threading.Event()
        answered, ticket, told = [], object(), 0
        self.line.append(ticket)
        try:
            while before := self.line.index(ticket):
                if comparison.stop.is_set():
                    yield {"error": "Stopped before there was an answer to keep; your question is back in the box."}
                    return
                if before != told:
                    told = before
                    yield {"waiting": before}
                await asyncio.sleep(LOOK_SECONDS)
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
            self.line.remove(ticket)
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

    def rate(self, id: str, choice: str, comment: str = "") -> list[str]:
        """Names of the models, left first, once the rating is on the disk; the same rating again, as after a lost answer, is one."""
        comparison = self.comparisons.get(id)
        if comparison is None or comparison.busy:
            comparison = self.find(id)
        if choice not in CHOICES or (choice in ("right", "tie") and len(comparison.sides) == 1):
            raise RefusedRequest(400, "No such rating.")
        if not any(turn.role == "assistant" for turn in comparison.turns[0]):
            raise RefusedRequest(409, "There is no answer to rate yet.")
        try:
            before = self._kept.add(_line(comparison, choice, self.sampling, comment), CHOICES[choice] is not None)
        except OSError as error:
            raise RefusedRequest(507, f"The rating is not saved: {self.ratings}: {error.strerror}.") from None
        comparison.rated = True
        if before not in (None, choice):
            raise RefusedRequest(409, "This conversation is rated already; start a new one.")
        self.count += before is None
        return [shown(talker.name) for talker in comparison.sides]


def shown(name: str) -> str:
    """A model's folder as visitors see it, without the folders of this machine: its own name, or its run and step."""
    path = Path(name)
    run = path.parent.parent.name if path.parent.name == "checkpoints" else ""
    return f"{run} {path.name}" if run else path.name or name


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
        return all(isinstance(text, str) and len(text) <= LONGEST_TEXT and is_text(text) for text in (question, answer)) and bool(
            question.strip()
        )

    if not (isinstance(sides, list) and len(sides) == count and all(isinstance(side, list) for side in sides)):
        return None
    if not all(is_one(exchange) for side in sides for exchange in side):
        return None
    asked = [[exchange[0] for exchange in side] for side in sides]
    return [[tuple(exchange) for exchange in side] for side in sides] if all(one == asked[0] for one in asked) else None


def _line(comparison: Comparison, choice: str, sampling: Sampling, comment: str) -> dict[str, Any]:
    transcripts = [[{"role": turn.role, "content": turn.text} for turn in turns] for turns in comparison.turns]
    kept, names = CHOICES[choice], [talker.name for talker in comparison.sides]
    return {
        "id": comparison.id,
        "messages": transcripts[kept or 0],
        "meta": {
            "rating": choice,
            **({"comment": comment.strip()} if comment.strip() else {}),
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


def is_text(value: str) -> bool:
    """False with a lone surrogate, which JSON can hold but no file and no tokenizer."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
