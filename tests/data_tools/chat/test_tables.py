"""What a table invents to hold objects of many shapes is not read: nulls, empty lists, lists turned round."""

import json
from pathlib import Path

import pytest

from data_tools.chat.conversations import Refused, read_record
from data_tools.chat.records import find_inputs, read_records

TURNS = [("user", "Q?"), ("assistant", "A.")]
SHARE, OPENAI = (
    [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}],
    [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}],
)
ALPACA, PAIR = {"instruction": "Q?", "output": "A."}, {"question": "Q?", "answer": "A."}


def filled(items: list[dict], **more) -> list[dict]:
    return [more | item for item in items]


FILLED = {
    "role null beside from": {"conversations": filled(SHARE, role=None)},
    "role and content null beside from": {"conversations": filled(SHARE, role=None, content=None)},
    "content empty beside value": {"conversations": filled(SHARE, content="", role="")},
    "from null beside role": {"messages": filled(OPENAI, **{"from": None, "value": None})},
    "value empty beside content": {"messages": filled(OPENAI, value="")},
    "both names, the same": {"messages": [{"from": "human", "value": "Q?"} | OPENAI[0], {"from": "gpt", "value": "A."} | OPENAI[1]]},
    "calls, tools and marks null": {"messages": filled(OPENAI, tool_calls=None, function_call=None, weight=None, train=None, name=None, tools=None), "tools": None},
    "calls of nulls": {"messages": filled(OPENAI, tool_calls=[], function_call={"name": None, "arguments": None})},
    "calls of blanks": {"messages": filled(OPENAI, tool_calls=[], function_call={"name": "", "arguments": ""}, audio={"id": None}, train_detail=None)},
    "parts with both texts": {"messages": [OPENAI[0] | {"content": [{"type": "text", "text": None, "value": "Q?", "image_url": None}]}, OPENAI[1]]},
    "messages empty beside conversations": {"messages": [], "conversations": SHARE},
    "messages null beside conversations": {"messages": None, "conversations": SHARE},
    "conversations empty beside messages": {"messages": OPENAI, "conversations": []},
    "conversations empty beside conversation": {"conversations": [], "conversation": OPENAI},
    "messages empty beside Alpaca": {"messages": [], "conversations": None, **ALPACA},
    "Alpaca empty beside a pair": {"instruction": "", "input": "", "output": "", **PAIR},
    "a pair empty beside Alpaca": {"prompt": "", "completion": None, **ALPACA, "history": [], "system": None, "context": ""},
    "data empty beside a pair": {"data": [], "text": "", **PAIR},
    "lists turned round": {"messages": {"role": ["user", "assistant"], "content": ["Q?", "A."]}},
    "lists turned round, with nulls": {"conversations": {"from": ["human", "gpt"], "value": ["Q?", "A."], "weight": None, "role": [None, None]}},
    "unknown fields, all empty": {"messages": filled(OPENAI, foo=None, bar=[], baz={"x": [None, ""]}), "context": "", "documents": [], "images": [None]},
}  # fmt: skip


@pytest.mark.parametrize("shape", FILLED)
def test_what_is_there_is_read(shape):
    [conversation] = read_record(FILLED[shape])
    assert [(turn.role, turn.text) for turn in conversation.turns] == TURNS and all(turn.train for turn in conversation.turns)


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"messages": [OPENAI[0] | {"value": "Other?"}, OPENAI[1]]}, "content and value disagree"),
        ({"messages": [OPENAI[0] | {"from": "gpt"}, OPENAI[1]]}, "role and from disagree"),
        ({"messages": []}, "no assistant turn"),
        ({"messages": [{"role": None, "content": None}]}, "unknown role 'None'"),
        ({"instruction": "", "output": "", "messages": []}, "no assistant turn"),
        ({"messages": {"role": ["user"], "content": ["Q?", "A."]}}, "not a list of messages"),
    ],
)
def test_what_is_not_there_or_there_twice_is_refused(record, reason):
    with pytest.raises(Refused, match=reason):
        read_record(record)


def write(path: Path, rows: list[dict], schema=None) -> list[dict]:
    """Through parquet, as a reader of chats gets it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([dict.fromkeys(key for row in rows for key in row) | row for row in rows], schema=schema), path)
    return list(read_records(find_inputs([str(path)])[0].path))


def call(name: str, arguments: object) -> dict:
    said = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}]}
    return {"messages": [{"role": "user", "content": "q"}, said, {"role": "tool", "content": "1"}, {"role": "assistant", "content": "end"}]}


def test_records_of_many_shapes_come_out_of_one_parquet_file_as_they_went_in(tmp_path):
    shapes = [{"messages": OPENAI}, {"conversations": SHARE}, ALPACA, PAIR, {"prompt": "Q?", "completion": "A."}, {"conversation": OPENAI}]
    rows = write(tmp_path / "a.parquet", shapes)
    assert rows == shapes
    rows = write(tmp_path / "b.parquet", [{"conversations": SHARE}, {"conversations": OPENAI}])
    assert [[(turn.role, turn.text) for turn in read_record(row)[0].turns] for row in rows] == [TURNS, TURNS]


def test_calls_of_many_tools_do_not_learn_each_others_arguments(tmp_path):
    calls = [
        call("flux", {"star": "Vega", "at": {"ra": 1.5}}),
        call("image", {"at": {"dec": 2.5}, "band": "V"}),
        call("now", {"band": None}),
    ]
    texts = [read_record(row)[0].turns[1].text for row in write(tmp_path / "a.parquet", calls)]
    assert texts == [
        '{"name": "flux", "arguments": {"star": "Vega", "at": {"ra": 1.5}}}',
        '{"name": "image", "arguments": {"at": {"dec": 2.5}, "band": "V"}}',
        '{"name": "now", "arguments": {}}',
    ]


def test_arguments_as_text_or_as_a_map_keep_their_nulls(tmp_path):
    import pyarrow as pa

    [row] = write(tmp_path / "a.parquet", [call("flux", '{"band": null}')])
    assert read_record(row)[0].turns[1].text == '{"name": "flux", "arguments": {"band": null}}'
    function = pa.struct([("name", pa.string()), ("arguments", pa.map_(pa.string(), pa.string()))])
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("function_call", function)])
    record = call("flux", None)
    record["messages"][1] = {"role": "assistant", "function_call": {"name": "flux", "arguments": [("star", "Vega"), ("band", None)]}}
    [row] = write(tmp_path / "b.parquet", [record], pa.schema([("messages", pa.list_(message))]))
    assert read_record(row)[0].turns[1].text == '{"name": "flux", "arguments": {"star": "Vega", "band": null}}'


def test_a_null_that_a_json_file_was_given_is_kept_and_one_that_a_table_wrote_into_it_is_not():
    record = call("flux", {"star": "Vega", "band": None})
    assert read_record(record)[0].turns[1].text == '{"name": "flux", "arguments": {"star": "Vega", "band": null}}'
    exported = {
        "messages": [{"content": None, "tool_calls": None} | message for message in record["messages"]],
        "tools": [{"name": "flux", "strict": None}],
    }
    turns = read_record(json.loads(json.dumps(exported)))[0].turns
    assert (turns[0].text, turns[2].text) == ('Tools:\n[{"name": "flux"}]', '{"name": "flux", "arguments": {"star": "Vega"}}')


def test_values_that_json_cannot_say_refuse_the_record(tmp_path):
    import datetime

    [row] = write(tmp_path / "a.parquet", [call("flux", {"on": datetime.date(2020, 1, 1)})])
    with pytest.raises(Refused, match="holds what JSON cannot say"):
        read_record(row)


def test_marks_of_a_table_are_read(tmp_path):
    marked = [OPENAI[0], OPENAI[1] | {"train": False, "train_detail": None}, OPENAI[0], OPENAI[1] | {"train": True}]
    [row] = write(tmp_path / "a.parquet", [{"messages": marked, "loss_mask": None}])
    assert [turn.train for turn in read_record(row)[0].turns if turn.role == "assistant"] == [False, True]


def test_a_hub_data_set_is_read_without_its_nulls(monkeypatch):
    """The library stands in for the network, which tests do not reach."""
    import datasets

    data = datasets.Dataset.from_list(
        [{"conversations": talk, "question": None, "answer": None} for talk in (SHARE, OPENAI)] + [{"conversations": None, **PAIR}]
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: data)
    rows = list(read_records("hub:a/b:train"))
    assert rows[2] == PAIR and [read_record(row)[0].turns[1].text for row in rows] == ["A."] * 3
