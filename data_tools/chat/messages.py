"""One message of a conversation, in any of its shapes → a turn: who speaks, the words, whether they are to be learned.

Every key of a message is read, known to say nothing of the conversation, or refused by its name: a mark that nobody read trains a
turn that was not to be trained, and nobody would know.
"""

from typing import Any

from data_tools.chat.calls import calls_text, message_calls, own_words, tools_text
from data_tools.chat.fields import says_nothing_of_it
from data_tools.chat.flags import is_detail, is_flag, learned_spans, mark, marks_beside, refuse_unclear_masks, turn_mark
from data_tools.chat.turns import CALL_ROLES, ROLES, Refused, Role, Turn, either, nothing, string

_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_REASONING = {"reasoning_content", "reasoning", "thinking", "reasoning_details"}
_THINKING = {"reasoning", "thinking", "redacted_thinking"}  # kinds of content parts
_PAIRS = (("input", "output"), ("human", "assistant"))  # XTuner and Capybara; ms-swift
_READ = {*_ROLE, *_CONTENT, *_REASONING, "tool_calls", "function_call"}


def are_pairs(items: Any) -> bool:
    """Whether a conversation is a list of {input, output} or {human, assistant} in place of messages."""
    return isinstance(items, list) and bool(items) and all(isinstance(item, dict) and _pair_of(item) for item in items)


def _pair_of(item: dict[str, Any]) -> tuple[str, str] | None:
    return next((names for names in _PAIRS if names[0] in item and names[1] in item and not {*_ROLE} & item.keys()), None)


def read_pairs(record: dict[str, Any], pairs: list[dict[str, Any]]) -> list[Turn]:
    """The turns of a list of pairs; XTuner's first one may hold the system prompt, each a flag for its answer. Raises Refused."""
    turns: list[Turn] = []
    for number, (pair, beside) in enumerate(zip(pairs, marks_beside(record, ["assistant"] * len(pairs)))):
        names = _pair_of(pair)
        unknown = [
            name
            for name, value in pair.items()
            if name not in (*names, "system", "need_eos_token") and not (nothing(value) or is_flag(name) or says_nothing_of_it(name, value))
        ]
        if unknown:
            raise Refused(f"unknown key of a message: {', '.join(sorted(map(repr, unknown))[:8])}")
        if pair.get("need_eos_token") is False:
            raise Refused("an answer without an end: need_eos_token false")
        if not nothing(pair.get("system")):
            if number:
                raise Refused("roles out of order: system where user belongs")
            turns.append(Turn("system", string(pair["system"])))
        turns += [Turn("user", string(pair[names[0]])), Turn("assistant", string(pair[names[1]]), turn_mark(pair, "assistant", beside))]
    return turns


def read_messages(record: dict[str, Any], messages: Any) -> list[Turn]:
    """The turns of a list of messages, tool calls of one answer joined. Raises Refused."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused("the conversation is not a list of messages")
    roles = [_role(message) for message in messages]
    refuse_unclear_masks(messages, roles)
    turns: list[Turn] = []
    for message, role, beside in zip(messages, roles, marks_beside(record, roles)):
        turn = _turn(message, role, beside)
        if turns and turns[-1].role == "assistant" and _name(message) in CALL_ROLES:  # ShareGPT: a call is a turn of its own
            turn = _joined(turns.pop(), turn)
        turns.append(turn)
    return turns


def _turn(message: dict[str, Any], role: Role, beside: bool | None) -> Turn:
    unknown = [name for name, value in message.items() if not nothing(value) and not _is_known(name, value, role)]
    if unknown:
        raise Refused(f"unknown key of a message: {', '.join(sorted(map(repr, unknown))[:8])}")
    train = turn_mark(message, role, beside)
    content = either(message, _CONTENT)
    spans = learned_spans(message, content)
    if message.get("train_detail") == [] and mark(message):
        spans = None  # axolotl: the flag of the turn goes before
    if spans and (not train or role != "assistant"):
        raise Refused("train_detail and a flag of its turn disagree" if role == "assistant" else f"train_detail on a {role} turn")
    texts, left_out = _content(content, role, is_call=_name(message) in CALL_ROLES)
    if calls := message_calls(message):
        if role != "assistant":
            raise Refused(f"tool calls in a {role} turn")
        if spans is not None:
            raise Refused("train_detail beside tool calls, of which it says nothing")
        texts = [text for text in texts if text.strip()] + calls
    if role == "system" and (tools := tools_text({"tools": message.get("tools")})):  # ChatGLM: beside the system's words
        texts = [text for text in texts if text.strip()] + ["\n" + tools if any(map(str.strip, texts)) else tools]
    if any(not nothing(message.get(name)) for name in _REASONING):
        left_out = "reasoning"
    return Turn(role, "\n".join(texts), train and spans != (), left_out, spans or None)


def _is_known(name: str, value: Any, role: Role) -> bool:
    return name in _READ or is_flag(name) or is_detail(name) or says_nothing_of_it(name, value) or (name == "tools" and role == "system")


def _name(message: dict[str, Any]) -> Any:
    name = either(message, _ROLE, said=lambda name: ROLES.get(name.lower()) if isinstance(name, str) else name)
    return name.lower() if isinstance(name, str) else name


def _role(message: dict[str, Any]) -> Role:
    name = _name(message)
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise Refused(f"unknown role {str(either(message, _ROLE))[:40]!r}")
    return "tool" if role == "user" and _results(message) else role


def _results(message: dict[str, Any]) -> bool:
    """Whether a user's turn is what tools answered, as Anthropic puts it. Raises Refused where words stand beside it."""
    parts = either(message, _CONTENT)
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts] if isinstance(parts, list) else []
    if "tool_result" in kinds and set(kinds) != {"tool_result"}:
        raise Refused("words beside a tool's result in one turn")
    return "tool_result" in kinds


def _joined(answer: Turn, call: Turn) -> Turn:
    if answer.train != call.train or answer.learned != call.learned:
        raise Refused("an answer and its tool call are marked differently")
    return Turn("assistant", f"{answer.text}\n{call.text}", answer.train, answer.left_out or call.left_out, answer.learned)


def _content(content: Any, role: Role, *, is_call: bool = False) -> tuple[list[str], str]:
    """The words of a message, and what was left out of it. Content is a string, or a list of parts, or nothing beside tool calls."""
    if is_call and isinstance(content, dict):
        return own_words(content), ""
    parts = content if isinstance(content, list) else [] if content is None else [{"type": "text", "text": content}]
    texts, left_out = [], ""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _THINKING:
            left_out = "reasoning"
            continue
        if {"tool_use": "assistant", "tool_result": "tool"}.get(kind, role) != role:
            raise Refused(f"content part {kind!r} in the {role}'s turn")
        if kind == "tool_use":
            texts += calls_text({"name": part.get("name"), "arguments": part.get("input"), "id": part.get("id")} | _besides(part))
            continue
        if kind == "tool_result":
            texts += _result(part)
            continue
        if kind not in ("text", "tool_call"):
            raise Refused(f"content part {str(kind)[:40]!r} is not text")
        beside = {name: value for name, value in part.items() if name not in ("type", "text", "value") and not nothing(value)}
        unknown = [name for name, value in beside.items() if not says_nothing_of_it(name, value)]
        if unknown:
            raise Refused(f"unknown key of a content part: {', '.join(sorted(map(repr, unknown)))}")
        said = either(part, ("text", "value"))
        texts += own_words(said) if (is_call or kind == "tool_call") and not nothing(said) else [string(said)]
    return texts, left_out


def _besides(part: dict[str, Any]) -> dict[str, Any]:
    """What a tool_use part holds that is no part of a call, for the call's reader to refuse."""
    return {name: value for name, value in part.items() if name not in ("type", "id", "name", "input", "cache_control", "caller")}


def _result(part: dict[str, Any]) -> list[str]:
    """The texts of a tool_result; one that failed says so in its words."""
    unknown = {name for name, value in part.items() if not nothing(value)} - {"type", "tool_use_id", "content", "is_error", "cache_control"}
    if unknown:
        raise Refused(f"unknown key of a content part: {', '.join(sorted(map(repr, unknown)))}")
    content = part.get("content")
    if isinstance(content, dict) or (isinstance(content, list) and any(not isinstance(item, dict) for item in content)):
        raise Refused("a tool's result is neither text nor a list of parts")
    return _content(content, "user")[0]
