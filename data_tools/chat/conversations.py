"""Records of other people's chat files → conversations: every published shape becomes the same list of turns.

record (`chat.records`) → `read_record`, which tells the shape by its fields → turns → `check` → conversations.
A record that cannot be trained on raises `Refused`, whose text is the reason it is counted under.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


class ChatError(ValueError):
    """A fault in chat data or in how it was to be read; says where, what was found, and what to do."""


class Refused(ValueError):
    """A record that cannot be trained on; its text is the reason, one of few, so that reasons can be counted."""


@dataclass(frozen=True)
class Turn:
    role: Role
    text: str
    train: bool = True  # assistant only: False where the record's loss weight is 0
    left_out: str = ""  # what the record said here that no template has a place for, such as "reasoning"


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...]  # [system], then user (or tool) and assistant in turn, ending with the assistant
    left_out: tuple[str, ...] = ()


def read_record(record: Any) -> list[Conversation]:
    """The conversations of one record, checked; one, but for self-instruct records with several instances. Raises Refused."""
    if not isinstance(record, dict):
        raise Refused("not an object with fields")
    given = {key for key, value in record.items() if value is not None}
    for fields, reader in READERS:
        if given.issuperset(fields):
            return [check(turns) for turns in reader(record)]
    raise Refused(f"unknown fields: {', '.join(sorted(map(str, given))[:8]) or 'none'}")


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


ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",  # ShareGPT with tools: what the assistant says to the tool
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}


def _from_messages(record: dict[str, Any]) -> list[list[Turn]]:
    return [_turns(record, record["messages"])]


def _from_conversations(record: dict[str, Any]) -> list[list[Turn]]:
    """ShareGPT (from, value) and its kin; LIMA gives plain strings that take turns, and LMSYS says `conversation`."""
    items = record.get("conversations") if record.get("conversations") is not None else record["conversation"]
    if isinstance(items, list) and items and all(isinstance(item, str) for item in items):
        return [_taking_turns(record, items)]
    return [_turns(record, items)]


def _from_strings(record: dict[str, Any]) -> list[list[Turn]]:
    """UltraChat as first published: `data` holds what user and assistant said, in turn."""
    return [_taking_turns(record, record["data"])]


def _from_alpaca(record: dict[str, Any]) -> list[list[Turn]]:
    turns = _system(record)
    for pair in record.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refused("history is not a list of [question, answer]")
        turns += [Turn("user", _string(pair[0])), Turn("assistant", _string(pair[1]))]
    return [[*turns, *_instruction(record["instruction"], record.get("input"), record["output"])]]


def _from_self_instruct(record: dict[str, Any]) -> list[list[Turn]]:
    instances = record["instances"]
    if not isinstance(instances, list) or not instances or not all(isinstance(instance, dict) for instance in instances):
        raise Refused("instances is not a list of {input, output}")
    return [_instruction(record["instruction"], instance.get("input"), instance.get("output")) for instance in instances]


def _instruction(instruction: Any, given: Any, output: Any) -> list[Turn]:
    """Alpaca's `input` is the matter an instruction is about: it follows it as a paragraph of its own."""
    matter = _string(given) if given is not None else ""
    question = f"{_string(instruction)}\n\n{matter}" if matter.strip() else _string(instruction)
    return [Turn("user", question), Turn("assistant", _string(output))]


def _pair(question: str, answer: str) -> Callable[[dict[str, Any]], list[list[Turn]]]:
    """One question, one answer; both may be lists of messages (TRL's conversational prompt and completion)."""

    def reader(record: dict[str, Any]) -> list[list[Turn]]:
        if isinstance(record[question], list):
            rest = record[answer] if isinstance(record[answer], list) else [{"role": "assistant", "content": record[answer]}]
            return [_turns(record, record[question] + rest)]
        return [[*_system(record), Turn("user", _string(record[question])), Turn("assistant", _string(record[answer]))]]

    return reader


def _refuse(reason: str) -> Callable[[dict[str, Any]], list[list[Turn]]]:
    def reader(record: dict[str, Any]) -> list[list[Turn]]:
        raise Refused(reason)

    return reader


# The first entry whose fields a record all has decides, so the richer shapes stand first: UltraChat records have a prompt, too,
# and Alpaca records a text.
READERS: list[tuple[tuple[str, ...], Callable[[dict[str, Any]], list[list[Turn]]]]] = [
    (("messages",), _from_messages),
    (("conversations",), _from_conversations),
    (("conversation",), _from_conversations),
    (("instruction", "instances"), _from_self_instruct),
    (("instruction", "output"), _from_alpaca),
    (("prompt", "completion"), _pair("prompt", "completion")),
    (("prompt", "response"), _pair("prompt", "response")),
    (("question", "answer"), _pair("question", "answer")),
    (("question", "response"), _pair("question", "response")),  # OpenOrca, with system_prompt
    (("question_id", "turns"), _refuse("evaluation questions without answers (MT-bench)")),
    (("question_id", "choices"), _refuse("evaluation answers without their questions (MT-bench)")),
    (("data",), _from_strings),
    (("text",), _refuse("bare text without roles; data_tools.prepare corpus reads it")),
]


def _turns(record: dict[str, Any], messages: Any) -> list[Turn]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused("the conversation is not a list of messages")
    turns = [_turn(message) for message in messages]
    if system := _system(record):
        if turns and turns[0].role == "system":  # tool descriptions follow what the system already says
            system = [Turn("system", f"{turns[0].text}\n\n{system[0].text}")]
            turns = turns[1:]
        turns = system + turns
    return turns


def _taking_turns(record: dict[str, Any], texts: Any) -> list[Turn]:
    if not isinstance(texts, list):
        raise Refused("the conversation is not a list of strings")
    roles: tuple[Role, Role] = ("user", "assistant")
    return _system(record) + [Turn(roles[place % 2], _string(text)) for place, text in enumerate(texts)]


def _system(record: dict[str, Any]) -> list[Turn]:
    """The system prompt a record holds beside its turns, and the tools it describes, as JSON."""
    texts = [_string(record[field]) for field in ("system", "system_prompt") if record.get(field) is not None]
    tools = record.get("tools")
    tools = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False) if tools else ""
    if tools.strip() not in ("", "[]"):
        texts.append(f"Tools:\n{tools}")
    text = "\n\n".join(text for text in texts if text.strip())
    return [Turn("system", text)] if text else []


def _turn(message: dict[str, Any]) -> Turn:
    name = message.get("role", message.get("from"))
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise Refused(f"unknown role {str(name)[:40]!r}")
    text, left_out = _content(message.get("content", message.get("value")), message.get("tool_calls"))
    if any(isinstance(message.get(field), str) and message[field] for field in ("reasoning_content", "reasoning", "thinking")):
        left_out = "reasoning"
    return Turn(role, text, _weight(message, role), left_out)


def _weight(message: dict[str, Any], role: Role) -> bool:
    """OpenAI's `weight`, LLaMA-Factory's `loss_weight`: 0 or 1, and only the assistant's words can have 1."""
    given = [message[field] for field in ("weight", "loss_weight") if message.get(field) is not None]
    if not given:
        return True
    if given[0] not in (0, 1):
        raise Refused("a loss weight is neither 0 nor 1")
    if given[0] == 1 and role != "assistant":
        raise Refused(f"loss weight 1 on a {role} turn")
    return given[0] == 1


def _content(content: Any, tool_calls: Any) -> tuple[str, str]:
    """The words of a message, and what was left out of it. Content is a string, or a list of parts, or nothing beside tool calls."""
    parts = content if isinstance(content, list) else [] if content is None else [{"type": "text", "text": content}]
    texts, left_out = [], ""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "reasoning":
            left_out = "reasoning"
        elif kind in ("text", "tool_call"):
            texts.append(_string(part.get("text", part.get("value"))))
        else:
            raise Refused(f"content part {str(kind)[:40]!r} is not text")
    for call in tool_calls or []:
        function = call.get("function", call) if isinstance(call, dict) else {"name": call}
        texts.append(json.dumps({"name": function.get("name"), "arguments": function.get("arguments")}, ensure_ascii=False))
    return "\n".join(texts), left_out


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(f"text is {type(value).__name__}, not a string")
    return value
