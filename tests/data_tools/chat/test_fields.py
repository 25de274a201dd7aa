"""A field beside the conversation, or a key beside role and content, is read, known to say nothing of it, or refused by its name."""

import json

import pytest

from data_tools import prepare
from data_tools.chat.conversations import Refused, read_record
from data_tools.shards.reader import Shards
from tests.made.chat_tokenizers import write_chatml

MESSAGES = [{"role": "user", "content": "Which star?"}, {"role": "assistant", "content": "Vega."}]
SHAPES = {
    "messages": {"messages": MESSAGES},
    "sharegpt": {"conversations": [{"from": "human", "value": "Which star?"}, {"from": "gpt", "value": "Vega."}]},
    "lima": {"conversations": ["Which star?", "Vega."]},
    "ultrachat": {"data": ["Which star?", "Vega."]},
    "alpaca": {"instruction": "Which star?", "output": "Vega."},
    "dolly": {"instruction": "Which star?", "response": "Vega."},
    "prompt": {"prompt": "Which star?", "completion": "Vega."},
    "prompt, messages": {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
    "prompt, response": {"prompt": "Which star?", "response": "Vega."},
    "question": {"question": "Which star?", "answer": "Vega."},
    "orca": {"question": "Which star?", "response": "Vega."},
}
PASSAGE = "Vega is bright."
LOST = {
    "passage": PASSAGE, "documents": [{"title": "Lyra", "text": PASSAGE}], "background": PASSAGE, "article": PASSAGE, "reference": PASSAGE,
    "evidence": [PASSAGE], "knowledge": PASSAGE, "abstract": PASSAGE, "table": [["Vega", 0.03]], "images": ["vega.png"], "image": b"\x89PNG",
    "schema": {"type": "object"}, "choices": ["Vega", "Deneb"], "options": {"A": "Vega", "B": "Deneb"}, "hint": "It is in Lyra.", "code": "x = 1",
    "redshift": 0.5, "star_name": "Deneb", "query": "Which one?", "source": "Vega is bright. " * 40, "kto_tag": False, "label": False,
    "explanation": "since it is bright", "persona": "a pirate", "answer_prefix": "It is",
}  # fmt: skip
KEPT_OUT = {
    "id": "x1", "uuid": "f0", "prompt_id": "p", "conversation_hash": "h", "source": "stackexchange", "dataset": "lima", "category": "qa",
    "lang": "en", "language": "English", "model": "gpt-4", "model_name": "m", "score": 0.9, "rating": 5, "quality_score": 3, "difficulty": "hard",
    "timestamp": "2024-01-01", "created_at": 1700000000, "metadata": {"passage": PASSAGE * 99}, "meta": {"prompt": "x" * 999}, "num_turns": 1,
    "token_count": 7, "turn": 1, "tags": ["a", "b"], "license": "MIT", "url": "https://example.org", "title": "Vega", "paper": "2301.00001",
    "openai_moderation": [{"flagged": False}], "toxic": False, "redacted": False, "split": "train", "task_type": "qa", "rejected": "Deneb.",
    "parallel_tool_calls": False, "tool_choice": "auto", "questionId": 3, "createdAt": "now", "arxiv_id": "0704.0001",
}  # fmt: skip


def turns(record: dict, **options) -> list[tuple[str, str]]:
    [conversation] = read_record(record, **options)
    return [(turn.role, turn.text) for turn in conversation.turns]


PLAIN = [("user", "Which star?"), ("assistant", "Vega.")]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_field_that_would_be_lost_refuses_the_record_by_its_name_unless_it_is_to_be_ignored(shape):
    for name, value in LOST.items():
        record = SHAPES[shape] | {name: value}
        with pytest.raises(Refused, match=f"unknown field beside the conversation: '{name}'"):
            read_record(record)
        [conversation] = read_record(record, ignore=[name])
        assert [(turn.role, turn.text) for turn in conversation.turns] == PLAIN and conversation.left_out == (f"ignored field '{name}'",)
    assert turns(SHAPES[shape], ignore=list(LOST)) == PLAIN and read_record(SHAPES[shape], ignore=["x"])[0].left_out == ()
    with pytest.raises(Refused, match="unknown field beside the conversation: 'hint', 'passage'"):
        read_record(SHAPES[shape] | {"passage": PASSAGE, "hint": "x?", "id": 7})


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_about_a_record_is_no_loss(shape):
    for name, value in KEPT_OUT.items():
        assert turns(SHAPES[shape] | {name: value}) == PLAIN, name
    assert turns(SHAPES[shape] | KEPT_OUT) == PLAIN


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in ("alpaca", "dolly")])
def test_input_and_context_of_other_shapes_than_those_that_define_them_are_refused(shape):
    for name in ("input", "context"):
        with pytest.raises(Refused, match=f"unknown field beside the conversation: '{name}'"):
            read_record(SHAPES[shape] | {name: PASSAGE})


@pytest.mark.parametrize("shape", ["alpaca", "dolly"])
def test_input_of_alpaca_and_context_of_dolly_follow_the_instruction(shape):
    wanted = [("user", f"Which star?\n\n{PASSAGE}"), ("assistant", "Vega.")]
    for fields in ({"input": PASSAGE}, {"context": PASSAGE}, {"context": PASSAGE, "input": ""}, {"input": PASSAGE, "context": PASSAGE}):
        assert turns(SHAPES[shape] | fields) == wanted
    with pytest.raises(Refused, match="input and context disagree"):
        read_record(SHAPES[shape] | {"input": "a?", "context": PASSAGE})
    for value in ([PASSAGE], {"text": PASSAGE}, 7):
        with pytest.raises(Refused, match="not a string"):
            read_record(SHAPES[shape] | {"input": value})


@pytest.mark.parametrize("shape", ["alpaca", "dolly", "prompt", "prompt, response", "question", "orca"])
def test_history_and_system_of_single_questions_come_first(shape):
    record = SHAPES[shape] | {"history": [["a", "b"], ["c", "d"]], "system": "Be brief."}
    assert turns(record) == [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), *PLAIN]
    for value in ("a, b", [["a"]], [{"a": "b"}], {"a": "b"}, 7, True):
        with pytest.raises(Refused, match=r"history is not a list of \[question, answer\]"):
            read_record(SHAPES[shape] | {"history": value})


@pytest.mark.parametrize("shape", ["messages", "sharegpt", "lima", "ultrachat", "prompt, messages"])
def test_a_history_beside_a_whole_conversation_is_refused(shape):
    with pytest.raises(Refused, match="history"):
        read_record(SHAPES[shape] | {"history": [["a", "b"]]})


def test_a_system_prompt_that_stands_there_twice_is_told_once():
    record = {"messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]}
    assert turns(record | {"system": "Be brief."}) == [("system", "Be brief."), *PLAIN]
    assert turns(record | {"system": "Be"}) == [("system", "Be brief.\n\nBe"), *PLAIN]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": MESSAGES, "prompt": "Which star?", "context": "star", "instruction": "Which star?", "response": "Vega."},
        {"messages": MESSAGES, "conversations": SHAPES["sharegpt"]["conversations"]},
        {"messages": MESSAGES, "text": "<user>Which star?<bot>Vega."},
        {"instruction": "Which star?", "output": "Vega.", "text": "Below is an instruction …"},
        {"question": "Which star? Vega is bright.", "answer": "Vega.", "passage": PASSAGE, "documents": [PASSAGE, "Vega"]},
    ],
)
def test_what_the_conversation_says_already_is_no_loss(record):
    assert len(turns(record)) == 2


@pytest.mark.parametrize(
    "record, name",
    [
        ({"question": "What does it say?", "answer": PASSAGE, "passage": PASSAGE}, "passage"),  # the answer says it, the question does not
        ({"messages": MESSAGES, "prompt": "Another?"}, "prompt"),
        ({"messages": MESSAGES, "conversations": [{"from": "human", "value": "Another?"}]}, "conversations"),
        ({"question": "Which star?", "answer": "Vega.", "text": PASSAGE}, "text"),
        ({"instruction": "Which star?", "output": "Vega.", "text": PASSAGE}, "text"),
    ],
)
def test_what_only_looks_as_if_it_were_said_is_refused(record, name):
    with pytest.raises(Refused, match=f"unknown field beside the conversation: '{name}'"):
        read_record(record)


def on_answer(**more) -> dict:
    return {"messages": [MESSAGES[0], MESSAGES[1] | more]}


def test_an_unknown_key_beside_role_and_content_refuses_the_record_by_its_name_unless_it_is_to_be_ignored():
    unknown = {
        "foo": "bar",
        "keep": False,
        "images": ["x.png"],
        "refusal": "I can't.",
        "audio": {"id": "a"},
        "label": "good",
        "text": "Deneb.",
        "prefix": True,
    }
    unknown |= {"channel": "analysis", "recipient": "browser", "tools": [{"name": "x"}], "context": PASSAGE, "use": 0}
    for name, value in unknown.items():
        with pytest.raises(Refused, match=f"unknown key of a message: '{name}'"):
            read_record(on_answer(**{name: value}))
        [conversation] = read_record(on_answer(**{name: value}), ignore={name})
        assert conversation.left_out == (f"ignored field '{name}'",) and len(conversation.turns) == 2
    part = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Which star?", "image": "x"}]}, MESSAGES[1]]}
    with pytest.raises(Refused, match="unknown key of a content part: 'image'"):
        read_record(part)


def test_keys_that_say_nothing_of_the_conversation_are_no_fault():
    known = {
        "name": "ada",
        "id": 1,
        "message_id": "m",
        "tool_call_id": "c",
        "timestamp": 1.5,
        "metadata": {"a": "b"},
        "model": "m",
        "lang": "en",
    }
    known |= {
        "created_at": "now",
        "token_count": 3,
        "finish_reason": "stop",
        "annotations": [{"url": "u"}],
        "parent_id": None,
        "index": 0,
        "toxic": False,
    }
    assert turns(on_answer(**known)) == PLAIN
    assert read_record(on_answer(reasoning_content="hm"))[0].left_out == ("reasoning",)


def run(folder, rows: list[dict], *words: str) -> int:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (*words, "--template", "chatml", "--tokenizer", str(write_chatml(folder)), "--out", str(folder / "out"), "--workers", "1")
    return prepare.main(["chat", str(folder / "rows.jsonl"), *words])


def test_the_command_names_the_fields_that_it_refuses_and_says_what_it_ignores(tmp_path, capsys):
    rows = [SHAPES["question"] | {"passage": PASSAGE}] * 2 + [on_answer(foo="bar")]
    assert run(tmp_path, rows) == 1
    error = capsys.readouterr().err
    assert (
        "unknown field beside the conversation: 'passage' (2); unknown key of a message: 'foo' (1); --ignore-field NAME reads on" in error
    )
    assert run(tmp_path, rows, "--ignore-field", "passage", "--ignore-field", "foo") == 0
    assert "ignored, as --ignore-field says: 'passage' (2 conversations); 'foo' (1 conversations)" in capsys.readouterr().out
    manifest = Shards.open(tmp_path / "out").manifest
    assert manifest["arguments"]["ignore_field"] == ["foo", "passage"] and manifest["chat"]["left_out"]["rows"] == {
        "ignored field 'passage'": 2,
        "ignored field 'foo'": 1,
    }
    assert run(tmp_path, rows, "--ignore-field", "passage") == 1
    assert "made with other arguments" in capsys.readouterr().err


def test_what_turns_are_made_of_cannot_be_ignored(tmp_path, capsys):
    assert run(tmp_path, [SHAPES["question"]], "--ignore-field", "content") == 1
    assert "--ignore-field content: turns are made of it" in capsys.readouterr().err


def test_records_of_any_values_are_read_or_refused_and_never_fail():
    import random

    draw = random.Random(0)
    names = [
        "messages",
        "conversations",
        "instruction",
        "input",
        "output",
        "history",
        "system",
        "tools",
        "functions",
        "prompt",
        "completion",
        "data",
    ]
    names += [
        "instances",
        "train",
        "mask",
        "weight",
        "train_detail",
        "tool_calls",
        "function_call",
        "role",
        "from",
        "content",
        "value",
        "type",
        "name",
    ]
    names += ["arguments", "function", "foo", "reasoning_content", "text", "question", "answer"]
    atoms = [
        None,
        "",
        "a",
        "user",
        "gpt",
        "system",
        "tool",
        "function_call",
        "text",
        0,
        1,
        0.5,
        True,
        False,
        float("nan"),
        10**400,
        "[",
        "{}",
        "<x",
    ]
    atoms += [b"x", '{"name": "x", "arguments": {}}', "\ud800", (1, 2)]

    def value(depth: int):
        kind = draw.random() if depth else 0
        if kind < 0.5:
            return draw.choice(atoms)
        return [value(depth - 1) for _ in range(draw.randint(0, 3))] if kind < 0.75 else fields(depth - 1, draw.randint(0, 4))

    def fields(depth: int, number: int) -> dict:
        return {draw.choice(names): value(depth) for _ in range(number)}

    read = refused = 0
    for k in range(20000):
        message = {
            "role": draw.choice(["user", "assistant", "gpt", "tool", "function_call"]),
            "content": draw.choice(["a", None, [{"type": "text", "text": "x"}]]),
        }
        record = [on_answer(**fields(3, 2)), {"messages": [MESSAGES[0], message | fields(3, 1)]}, SHAPES["alpaca"], {}][k % 4] | fields(
            4, k % 3
        )
        try:
            read += len(read_record(record, ignore=["foo"]))
        except Refused:
            refused += 1
    assert read > 1000 and refused > 1000, (read, refused)


@pytest.mark.parametrize("name", ["metadata", "foo", "tools", "messages"])
def test_a_record_nested_without_end_is_refused(name):
    value: list = ["x"]
    for _ in range(5000):
        value = [value]
    with pytest.raises(Refused, match="nested too deeply"):
        read_record(on_answer() | {name: value})
