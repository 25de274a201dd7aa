"""A tool call is one text, whatever shape it is stored in; what cannot be read as a call refuses the record."""

import json

import pytest

from data_tools.chat.conversations import Refused, read_record

ARGUMENTS = {"star": "Vega", "bands": ["V", "é"], "at": {"ra": 279.2}, "deep": None, "limit": 3}
CALL = {"name": "flux", "arguments": ARGUMENTS}
TEXT = json.dumps(CALL, ensure_ascii=False)
IN_TEXT = CALL | {"arguments": json.dumps(ARGUMENTS)}
FUNCTION = {"id": "c1", "type": "function", "function": CALL}


def chat(answer: dict | list[dict], result: str = "tool") -> dict:
    said = answer if isinstance(answer, list) else [{"role": "assistant"} | answer]
    return {
        "messages": [{"role": "user", "content": "q"}, *said, {"role": result, "content": "42"}, {"role": "assistant", "content": "end"}]
    }


def sharegpt(*turns: tuple[str, str]) -> dict:
    return {"conversations": [{"from": role, "value": value} for role, value in turns]}


def answers(record: dict) -> list[str]:
    [conversation] = read_record(json.loads(json.dumps(record)))
    assert [turn.role for turn in conversation.turns] == ["user", "assistant", "tool", "assistant"]
    return [turn.text for turn in conversation.turns if turn.role == "assistant"]


ONE = {
    "tool_calls": chat({"content": None, "tool_calls": [FUNCTION]}),
    "tool_calls, arguments as text": chat({"content": None, "tool_calls": [FUNCTION | {"function": IN_TEXT}]}),
    "tool_calls, arguments as text of text": chat({"tool_calls": [FUNCTION | {"function": CALL | {"arguments": json.dumps(json.dumps(ARGUMENTS))}}]}),
    "tool_calls, bare": chat({"content": "", "tool_calls": [CALL]}),
    "tool_calls, bare, arguments as text": chat({"content": "", "tool_calls": [IN_TEXT]}),
    "tool_calls as text": chat({"content": None, "tool_calls": json.dumps([CALL])}),
    "tool_calls as text, nested": chat({"content": None, "tool_calls": json.dumps([FUNCTION])}),
    "tool_calls as text of one": chat({"content": None, "tool_calls": json.dumps(IN_TEXT)}),
    "tool_calls as a list of texts": chat({"content": None, "tool_calls": [json.dumps(FUNCTION)]}),
    "tool_calls as one object": chat({"content": None, "tool_calls": CALL}),
    "tool_calls as columns": chat({"content": None, "tool_calls": {"name": ["flux"], "arguments": [ARGUMENTS]}}),
    "tool_calls beside a null function_call": chat({"content": None, "function_call": None, "tool_calls": [FUNCTION]}),
    "tool_calls and the same function_call": chat({"content": None, "function_call": IN_TEXT, "tool_calls": [FUNCTION]}),
    "tool_calls beside empty parts": chat({"content": [{"type": "text", "text": ""}], "tool_calls": [FUNCTION]}),
    "Llama 3's parameters": chat({"content": None, "tool_calls": [{"type": "function", "name": "flux", "parameters": ARGUMENTS}]}),
    "function_call": chat({"content": None, "function_call": CALL}, "function"),
    "function_call, arguments as text": chat({"content": "", "function_call": IN_TEXT}, "function"),
    "function_call as text": chat({"content": None, "function_call": TEXT}, "function"),
    "function_call beside empty tool_calls": chat({"content": None, "function_call": CALL, "tool_calls": []}, "function"),
    "a part of the content": chat({"content": [{"type": "tool_call", "value": json.dumps(IN_TEXT)}]}),
    "a part of the content, object": chat({"content": [{"type": "tool_call", "value": CALL}]}),
    "sharegpt": sharegpt(("human", "q"), ("function_call", TEXT), ("observation", "42"), ("gpt", "end")),
    "sharegpt, arguments as text": sharegpt(("human", "q"), ("function_call", json.dumps(IN_TEXT)), ("observation", "42"), ("gpt", "end")),
    "sharegpt, list of one": sharegpt(("human", "q"), ("function_call", json.dumps([CALL])), ("observation", "42"), ("gpt", "end")),
    "tool_call as a role": chat([{"role": "tool_call", "content": TEXT}], "tool_response"),
    "tool_call as a role, object": chat([{"role": "tool_call", "content": IN_TEXT}], "tool_response"),
}  # fmt: skip


@pytest.mark.parametrize("shape", ONE)
def test_every_shape_of_a_call_gives_the_same_text(shape):
    assert answers(ONE[shape]) == [TEXT, "end"]


WITH_WORDS = [
    chat({"content": "Let me look.", "tool_calls": [FUNCTION, CALL]}),
    chat({"content": "Let me look.", "tool_calls": json.dumps([IN_TEXT, FUNCTION])}),
    chat(
        {"content": [{"type": "text", "text": "Let me look."}, {"type": "tool_call", "value": TEXT}, {"type": "tool_call", "value": TEXT}]}
    ),
    chat(
        [{"role": "assistant", "content": "Let me look."}, {"role": "tool_call", "content": TEXT}, {"role": "tool_call", "content": TEXT}]
    ),
    sharegpt(("human", "q"), ("gpt", "Let me look."), ("function_call", json.dumps([CALL, CALL])), ("observation", "42"), ("gpt", "end")),
]


@pytest.mark.parametrize("record", WITH_WORDS)
def test_words_before_calls_stay_and_calls_stand_in_order(record):
    assert answers(record) == [f"Let me look.\n{TEXT}\n{TEXT}", "end"]


def test_a_function_call_beside_content_is_kept():
    record = chat({"content": "Let me look.", "function_call": {"name": "flux", "arguments": '{"star": "Vega"}'}}, "function")
    assert answers(record)[0] == 'Let me look.\n{"name": "flux", "arguments": {"star": "Vega"}}'


@pytest.mark.parametrize("arguments", [None, "", "{}", {}, "null"])
def test_a_call_without_arguments_has_empty_ones(arguments):
    for record in (
        chat({"tool_calls": [{"function": {"name": "now", "arguments": arguments}}]}),
        chat({"function_call": {"name": "now", "arguments": arguments}}),
    ):
        assert answers(record)[0] == '{"name": "now", "arguments": {}}'
    assert answers(chat({"tool_calls": [{"function": {"name": "now"}}]}))[0] == '{"name": "now", "arguments": {}}'


@pytest.mark.parametrize(
    "text", ['<tool_call>\n{"name": "flux", "arguments": "{}"}\n</tool_call>', "<think>hm</think>\n<tool_call>x</tool_call>"]
)
def test_calls_in_a_markup_of_their_own_stay_text(text):
    assert answers(chat({"content": text}))[0] == text
    assert answers(sharegpt(("human", "q"), ("gpt", text), ("tool", "42"), ("gpt", "end")))[0] == text
    assert answers(sharegpt(("human", "q"), ("function_call", text), ("tool", "42"), ("gpt", "end")))[0] == text


def test_words_that_look_like_a_call_stay_as_the_assistant_wrote_them():
    assert answers(chat({"content": '{"name":"flux", "arguments":"{}"}'}))[0] == '{"name":"flux", "arguments":"{}"}'


NO_NAME, NO_OBJECT = "a tool call is not an object with a name", "the arguments of a tool call are not a JSON object"
REFUSED = {
    "tool call of type 'custom'": [{"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}]}],
    NO_NAME: [{"tool_calls": [call]} for call in (7, {"arguments": {"a": 1}}, {"name": "", "id": "c"}, {"name": None, "arguments": {"a": 1}}, {"function": "flux"}, {"custom": {"name": "x"}})]
    + [{"tool_calls": "7"}, {"function_call": 7}, {"function_call": {"arguments": "{}"}}],
    NO_OBJECT: [{"tool_calls": [{"name": "flux", "arguments": value}]} for value in ("{'star': 'Vega'}", '{"star": ', "Vega", ["Vega"], "[1]", 7, '{"a": 1, "a": 2}', '{"a": NaN}')],
    "a tool call is not JSON": [{"tool_calls": "flux(Vega)"}, {"function_call": "flux"}, {"tool_calls": ["flux"]}, {"content": [{"type": "tool_call", "value": "flux"}]}],
    "tool_calls and function_call disagree": [{"tool_calls": [CALL], "function_call": {"name": "other", "arguments": {}}}],
    "unknown field of a tool call: 'result'": [{"tool_calls": [CALL | {"result": "42"}]}, {"tool_calls": [FUNCTION | {"result": 0}]}],
    "unknown field of a tool call: 'arguments', 'parameters'": [{"tool_calls": [CALL | {"parameters": {"a": 1}}]}],
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_read_as_a_call_refuses_the_record(reason):
    for answer in REFUSED[reason]:
        with pytest.raises(Refused, match=reason):
            read_record(chat(answer))


def test_only_the_assistant_calls():
    record = chat({"content": "a"})
    record["messages"][0]["tool_calls"] = [CALL]
    with pytest.raises(Refused, match="tool calls in a user turn"):
        read_record(record)


def test_an_answer_and_its_call_that_are_marked_differently_are_refused():
    record = sharegpt(("human", "q"), ("gpt", "a"), ("function_call", TEXT), ("observation", "42"), ("gpt", "end"))
    record["conversations"][1]["train"] = False
    with pytest.raises(Refused, match="an answer and its tool call are marked differently"):
        read_record(record)
    record["conversations"][2]["train"] = 0
    assert [turn.train for turn in read_record(record)[0].turns if turn.role == "assistant"] == [False, True]


TOOLS = [{"name": "flux", "parameters": {"type": "object"}}]
DESCRIBED = f"Tools:\n{json.dumps(TOOLS)}"


@pytest.mark.parametrize("fields", [{"tools": TOOLS}, {"tools": json.dumps(TOOLS, indent=1)}, {"functions": TOOLS}, {"functions": json.dumps(TOOLS)},
                                    {"tools": [json.dumps(TOOLS[0])]}, {"tools": TOOLS, "functions": TOOLS}, {"tools": [], "functions": TOOLS}])  # fmt: skip
def test_tools_are_described_in_the_system_prompt_whatever_their_shape(fields):
    [conversation] = read_record(chat({"content": "a"}) | fields)
    assert conversation.turns[0].text == DESCRIBED
    [conversation] = read_record({"system": "Be brief.", "question": "a", "answer": "b"} | fields)
    assert conversation.turns[0].text == f"Be brief.\n\n{DESCRIBED}"


def test_tools_beside_the_systems_words_or_in_prose_are_read_and_none_is_told_twice():
    record = chat({"content": "a"})
    record["messages"].insert(0, {"role": "system", "content": "Be brief.", "tools": TOOLS})
    for fields in ({}, {"tools": TOOLS}, {"tools": "[]"}, {"tools": None}):
        assert read_record(record | fields)[0].turns[0].text == f"Be brief.\n\n{DESCRIBED}"
    assert (
        read_record(chat({"content": "a"}) | {"tools": "flux(star): flux of a star"})[0].turns[0].text
        == "Tools:\nflux(star): flux of a star"
    )
    with pytest.raises(Refused, match="tools and functions disagree"):
        read_record(chat({"content": "a"}) | {"tools": TOOLS, "functions": [{"name": "other"}]})
