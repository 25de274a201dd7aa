"""Tool calls and tool descriptions as others store them → one text for each, the same whatever the shape.

    tool_calls, function_call, a call as JSON text, `arguments` as an object or as JSON text  →  {"name": "flux", "arguments": {"star": "Vega"}}

What cannot be read as a call is refused, never trained as it came: a model learns such a text to the letter.
"""

import json
from typing import Any

from data_tools.chat.tables import as_rows
from data_tools.chat.turns import Refused, nothing

_BESIDE = {"id", "type", "index", "call_id"}  # of a call, which say nothing to the tool
_ARGUMENTS = ("arguments", "parameters")  # Llama 3 says parameters
_KINDS = ("function", "tool_call", "function_call")


def message_calls(message: dict[str, Any]) -> list[str]:
    """The calls of a message's `tool_calls` or `function_call`. Raises Refused."""
    found = {name: calls_text(message[name]) for name in ("tool_calls", "function_call") if not nothing(message.get(name))}
    if len({tuple(calls) for calls in found.values()}) > 1:
        raise Refused("tool_calls and function_call disagree")
    return next(iter(found.values()), [])


def calls_text(value: Any) -> list[str]:
    """A call or a list of calls, as JSON text or not → the text of each. Raises Refused."""
    if isinstance(value, str):
        value = _parsed(value, "a tool call is not JSON")
    if not isinstance(value, (dict, list)):
        raise Refused("a tool call is not an object with a name")
    rows = as_rows(value)
    return [_call(call) for call in (rows if isinstance(rows, list) else [rows])]


def own_words(value: Any) -> list[str]:
    """What a turn says that is a call by its role: text marked up in a way of its own (`<tool_call>…`, `<think>…`) stays as it is."""
    return [value] if isinstance(value, str) and value.lstrip().startswith("<") else calls_text(value)


def _call(call: Any) -> str:
    if isinstance(call, str):
        call = _parsed(call, "a tool call is not JSON")
    if not isinstance(call, dict):
        raise Refused("a tool call is not an object with a name")
    kind = call.get("type")
    if not nothing(kind) and kind not in _KINDS:  # "custom": its input is no JSON object, and no format has a place for it
        raise Refused(f"tool call of type {str(kind)[:40]!r}")
    function = call if nothing(call.get("function")) else call["function"]
    if isinstance(function, str):
        function = _parsed(function, "a tool call is not an object with a name")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or nothing(function["name"]):
        raise Refused("a tool call is not an object with a name")
    known = _BESIDE | {"function", "name", *_ARGUMENTS} if function is call else _BESIDE | {"function"}
    unknown = {name for name, value in call.items() if name not in known and not nothing(value)}
    unknown |= {name for name, value in function.items() if name not in (*_BESIDE, "function", "name", *_ARGUMENTS) and not nothing(value)}
    given = [name for name in _ARGUMENTS if not nothing(function.get(name))]
    if unknown or len(given) > 1:
        raise Refused(f"unknown field of a tool call: {', '.join(sorted(map(repr, unknown or given)))}")
    arguments = _arguments(next((function[name] for name in _ARGUMENTS if function.get(name) is not None), None))
    return _written({"name": function["name"], "arguments": arguments})


def _arguments(value: Any) -> dict[str, Any]:
    """The arguments as an object; none at all is the empty object, which is how a call without arguments is written."""
    for _ in range(2):  # written as text, and that as text once more
        if isinstance(value, str) and value.strip():
            value = _parsed(value, "the arguments of a tool call are not a JSON object")
    if isinstance(value, (str, list, type(None))) and nothing(value):
        return {}
    if not isinstance(value, dict):
        raise Refused("the arguments of a tool call are not a JSON object")
    return value


def _parsed(text: str, reason: str) -> Any:
    """JSON, strictly: a key twice, or NaN, would not come out as it went in. Raises Refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def never(constant: str) -> None:
        raise ValueError(constant)

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=never)
    except (ValueError, RecursionError) as error:
        raise Refused(reason) from error


def _written(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:  # dates, bytes, decimals of a table
        raise Refused("a tool call or a tool holds what JSON cannot say") from error


def tools_text(fields: dict[str, Any]) -> str:
    """What `tools`, or `functions` as OpenAI called them first, describes, as JSON; empty where nothing is. Raises Refused."""
    texts = {_tools(fields[name]) for name in ("tools", "functions") if not nothing(fields.get(name))} - {"[]", "{}"}
    if len(texts) > 1:
        raise Refused("tools and functions disagree")
    return f"Tools:\n{texts.pop()}" if texts else ""


def _tools(value: Any) -> str:
    if isinstance(value, str):
        try:
            value = _parsed(value, "")
        except Refused:
            return value  # described in prose, or in a notation of its own
    if isinstance(value, list):  # each may be JSON text: tables have no column for objects of many shapes
        value = [_parsed(item, "a tool is not JSON") if isinstance(item, str) and item.lstrip().startswith("{") else item for item in value]
    return _written(value)
