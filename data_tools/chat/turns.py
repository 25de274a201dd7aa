"""What everything in this room speaks of: turns, conversations, and the two ways in which a chat can be at fault."""

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
    train: bool = True  # assistant only: False where the record marks the turn as not to be learned
    left_out: str = ""  # what the record said here that no template has a place for, such as "reasoning"
    learned: tuple[tuple[int, int], ...] | None = None  # [start, end) of the characters to be learned; None: all of them


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...]  # [system], then user (or tool) and assistant in turn, ending with the assistant
    left_out: tuple[str, ...] = ()


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
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
}
CALL_ROLES = {"function_call", "tool_call"}  # their whole text is a call


def nothing(value: Any) -> bool:
    """Whether a field says nothing: null, blank, or lists and objects of only such. A table gives every record every field of
    any, so that an empty field means the same as none. False and 0 do say something.
    """
    if isinstance(value, dict):
        return all(map(nothing, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(nothing, value))
    return value is None or (isinstance(value, str) and not value.strip())


def string(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(f"text is {type(value).__name__}, not a string")
    return value


def either(fields: dict[str, Any], names: tuple[str, ...], said: Any = None) -> Any:
    """What a message says under one of several names for the same thing; None where it has none of them.

    said: value → what it means, for names whose words differ but mean the same. Raises Refused where two names disagree.
    """
    given = {name: fields[name] for name in names if not nothing(fields.get(name))}
    meanings = [said(value) if said else value for value in given.values()]
    if any(meaning != meanings[0] for meaning in meanings):
        raise Refused(f"{' and '.join(given)} disagree")
    return next(iter(given.values())) if given else next((fields[name] for name in names if fields.get(name) is not None), None)
