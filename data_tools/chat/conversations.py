"""Records of other people's chat files → conversations: every published shape becomes the same list of turns.

record (`chat.records`) → `read_record`, which tells the shape by its fields → turns → `check` → conversations.
A record that cannot be trained on raises `Refused`, whose text is the reason it is counted under.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from data_tools.chat.calls import tools_text
from data_tools.chat.fields import refuse_unread, without
from data_tools.chat.flags import marks_beside
from data_tools.chat.messages import are_pairs, read_messages, read_pairs
from data_tools.chat.tables import as_rows, without_nulls, written_from_a_table
from data_tools.chat.turns import ChatError, Conversation, Refused, Role, Turn, either, nothing, string

IGNORED = "ignored field "  # so begins what is left out because the user said so
__all__ = ["IGNORED", "ChatError", "Conversation", "Refused", "Turn", "check", "read_record"]


def read_record(record: Any, ignore: Collection[str] = ()) -> list[Conversation]:
    """The conversations of one record, checked; one, but for self-instruct records with several instances. Raises Refused.

    ignore: names of fields to read as if they were not there, beside the conversation and in its messages.
    """
    if not isinstance(record, dict):
        raise Refused("not an object with fields")
    try:
        return _conversations(record, ignore)
    except RecursionError as error:
        raise Refused("nested too deeply") from error


def _conversations(record: dict[str, Any], ignore: Collection[str]) -> list[Conversation]:
    record, ignored = without(record, ignore)
    if any(written_from_a_table(record.get(name)) for name in LISTS):
        record = without_nulls(record)
    shape = _shape(record)
    conversations = []
    for turns in shape.reader(record):
        conversation = check(_with_system(record, turns))
        refuse_unread(record, {*shape.fields, *shape.more}, conversation.turns)
        left_out = sorted({*conversation.left_out, *(f"{IGNORED}{name!r}" for name in ignored)})
        conversations.append(replace(conversation, left_out=tuple(left_out)))
    return conversations


def check(turns: list[Turn]) -> Conversation:
    """Turns as a record has them → a conversation that every template can take. Raises Refused.

    Neighbouring tool results become one turn, an empty system prompt is none, a last question that nobody answered is left out.
    """
    left_out = {turn.left_out for turn in turns} - {""}
    if turns and turns[0].role == "system" and not turns[0].text.strip():
        turns = turns[1:]
    turns = _join_tool_results(turns)
    if not any(turn.role == "assistant" for turn in turns):
        raise Refused("no assistant turn")
    body = turns[1:] if turns[0].role == "system" else turns
    for place, turn in enumerate(body):
        asked = place % 2 == 0
        wanted = ("assistant",) if not asked else ("user",) if place == 0 else ("user", "tool")
        if turn.role not in wanted:
            raise Refused(f"roles out of order: {turn.role} where {' or '.join(wanted)} belongs")
    if body[-1].role != "assistant":
        turns = turns[:-1]
        left_out.add("last question, unanswered")
    for turn in turns:
        if not turn.text.strip():
            raise Refused(f"empty {turn.role} turn")
        if not turn.text.isascii() and any("\ud800" <= character <= "\udfff" for character in turn.text):
            raise Refused("text is not valid Unicode: half of a surrogate pair")
    return Conversation(tuple(turns), tuple(sorted(left_out)))


def _join_tool_results(turns: list[Turn]) -> list[Turn]:
    joined: list[Turn] = []
    for turn in turns:
        if joined and turn.role == joined[-1].role == "tool":
            joined[-1] = Turn("tool", f"{joined[-1].text}\n{turn.text}")
        else:
            joined.append(turn)
    return joined


Reader = Callable[[dict[str, Any]], list[list[Turn]]]


@dataclass(frozen=True)
class Shape:
    """A way in which records hold a conversation: the fields that tell it, its reader, and what else that reads."""

    fields: tuple[str, ...]
    reader: Reader
    more: tuple[str, ...] = ()


def _shape(record: dict[str, Any]) -> Shape:
    """The first shape whose fields all say something; tables give records the fields of other shapes, too, empty. Else the first
    whose fields are there, so that the reason names what is empty. Raises Refused."""
    given = {key for key, value in record.items() if value is not None}
    for fields in ({key for key in given if not nothing(record[key])}, given):
        for shape in READERS:
            if fields.issuperset(shape.fields):
                return shape
    raise Refused(f"unknown fields: {', '.join(sorted(map(str, given))[:8]) or 'none'}")


def _messages(field: str) -> Reader:
    """OpenAI's messages, Anthropic's; ShareGPT (from, value) and its kin; pairs; LIMA gives plain strings that take turns."""

    def reader(record: dict[str, Any]) -> list[list[Turn]]:
        items = as_rows(record[field])
        if isinstance(items, list) and items and all(isinstance(item, str) for item in items):
            return [_taking_turns(record, items)] if field != "messages" else [read_messages(record, items)]
        return [read_pairs(record, items) if are_pairs(items) else read_messages(record, items)]

    return reader


def _from_strings(record: dict[str, Any]) -> list[list[Turn]]:
    """UltraChat as first published: `data` holds what user and assistant said, in turn."""
    return [_taking_turns(record, record["data"])]


def _taking_turns(record: dict[str, Any], texts: Any) -> list[Turn]:
    if not isinstance(texts, list):
        raise Refused("the conversation is not a list of strings")
    roles: tuple[Role, Role] = ("user", "assistant")
    return _marked(record, [Turn(roles[place % 2], string(text)) for place, text in enumerate(texts)])


def _instruction(answer: str) -> Reader:
    """Alpaca, with LLaMA-Factory's history; Dolly, whose `context` is what Alpaca calls `input`."""

    def reader(record: dict[str, Any]) -> list[list[Turn]]:
        matter = either(record, ("input", "context"))
        return [_marked(record, [*_history(record), *_asked(record["instruction"], matter, record[answer])])]

    return reader


def _from_self_instruct(record: dict[str, Any]) -> list[list[Turn]]:
    instances = as_rows(record["instances"])
    if not isinstance(instances, list) or not instances or not all(isinstance(instance, dict) for instance in instances):
        raise Refused("instances is not a list of {input, output}")
    conversations = []
    for instance in instances:
        turns = _marked(instance, _marked(record, _asked(record["instruction"], instance.get("input"), instance.get("output"))))
        refuse_unread(instance, ("input", "output"), turns)
        conversations.append(turns)
    return conversations


def _asked(instruction: Any, given: Any, output: Any) -> list[Turn]:
    """Alpaca's `input` is the matter an instruction is about: it follows it as a paragraph of its own."""
    matter = string(given) if given is not None else ""
    question = f"{string(instruction)}\n\n{matter}" if matter.strip() else string(instruction)
    return [Turn("user", question), Turn("assistant", string(output))]


def _history(record: dict[str, Any]) -> list[Turn]:
    """Earlier turns, as LLaMA-Factory and ms-swift store them."""
    turns = []
    history = [] if nothing(record.get("history")) else record["history"]
    if not isinstance(history, list):
        raise Refused("history is not a list of [question, answer]")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refused("history is not a list of [question, answer]")
        turns += [Turn("user", string(pair[0])), Turn("assistant", string(pair[1]))]
    return turns


def _pair(question: str, answer: str) -> Reader:
    """One question, one answer; both may be lists of messages (TRL's conversational prompt and completion)."""

    def reader(record: dict[str, Any]) -> list[list[Turn]]:
        asked, answered = as_rows(record[question]), as_rows(record[answer])
        if isinstance(asked, list):
            rest = answered if isinstance(answered, list) else [{"role": "assistant", "content": answered}]
            if not nothing(record.get("history")):
                raise Refused("history beside a list of messages")
            return [read_messages(record, asked + rest)]
        return [_marked(record, [*_history(record), Turn("user", string(asked)), Turn("assistant", string(answered))])]

    return reader


def _refuse(reason: str) -> Reader:
    def reader(record: dict[str, Any]) -> list[list[Turn]]:
        raise Refused(reason)

    return reader


def _marked(record: dict[str, Any], turns: list[Turn]) -> list[Turn]:
    """The same turns, not to be learned where the record's own flags say so."""
    marks = marks_beside(record, [turn.role for turn in turns])
    return [replace(turn, train=turn.train and mark is not False) for turn, mark in zip(turns, marks)]


def _with_system(record: dict[str, Any], turns: list[Turn]) -> list[Turn]:
    """The system prompt a record holds beside its turns, and the tools it describes, follow what the system already says."""
    first, body = ("", turns) if not turns or turns[0].role != "system" else (turns[0].text, turns[1:])
    texts = [first]
    for text in (string(record[field]) for field in ("system", "system_prompt") if record.get(field) is not None):
        texts += [text] if text.strip() not in map(str.strip, texts) else []
    tools = tools_text(record)
    texts += [tools] if not any(tools in text for text in texts) else []
    return [Turn("system", "\n\n".join(text for text in texts if text.strip())), *body] if any(map(str.strip, texts)) else body


LISTS = ("messages", "conversations", "conversation")  # `conversation` is LMSYS's
# The first whose fields a record all has decides, so the richer shapes stand first: UltraChat records have a prompt, too, and
# Alpaca records a text.
READERS = [
    *(Shape((name,), _messages(name)) for name in LISTS),
    Shape(("instruction", "instances"), _from_self_instruct),
    Shape(("instruction", "output"), _instruction("output"), ("input", "context", "history")),
    Shape(("instruction", "response"), _instruction("response"), ("input", "context", "history")),  # Dolly
    Shape(("prompt", "completion"), _pair("prompt", "completion"), ("history",)),
    Shape(("prompt", "response"), _pair("prompt", "response"), ("history",)),
    Shape(("question", "answer"), _pair("question", "answer"), ("history",)),
    Shape(("question", "response"), _pair("question", "response"), ("history",)),  # OpenOrca, with system_prompt
    Shape(("query", "response"), _pair("query", "response"), ("history",)),  # ms-swift
    Shape(("question_id", "turns"), _refuse("evaluation questions without answers (MT-bench)")),
    Shape(("question_id", "choices"), _refuse("evaluation answers without their questions (MT-bench)")),
    Shape(("data",), _from_strings),
    Shape(("text",), _refuse("bare text without roles; data_tools.prepare corpus reads it")),
]
