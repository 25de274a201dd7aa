"""Every published shape of chat file becomes turns, or is refused with its reason."""

import gzip
import json
from pathlib import Path

import pytest

from data_tools.chat.conversations import ChatError, Refused, Turn, read_record
from data_tools.chat.records import find_inputs, read_records
from tests.made.where import SHARED

REAL = SHARED / "chat"
ASK = [Turn("user", "What is a quasar?"), Turn("assistant", "A bright nucleus.")]
TWICE = [*ASK, Turn("user", "How far?"), Turn("assistant", "Very.")]
SYSTEM = Turn("system", "Be brief.")

SHAPES = {
    "openai": ({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK[0].text}, {"role": "assistant", "content": ASK[1].text}]}, [SYSTEM, *ASK]),
    "openai, parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "a quasar?"}]}, {"role": "assistant", "content": ASK[1].text}]}, [Turn("user", "What is \na quasar?"), ASK[1]]),
    "openai, developer": ({"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": ASK[0].text}, {"role": "assistant", "content": ASK[1].text}]}, [SYSTEM, *ASK]),
    "sharegpt": ({"id": "x1", "conversations": [{"from": "human", "value": ASK[0].text}, {"from": "gpt", "value": ASK[1].text}, {"from": "human", "value": "How far?"}, {"from": "gpt", "value": "Very."}]}, TWICE),
    "sharegpt, system beside": ({"system": "Be brief.", "conversations": [{"from": "human", "value": ASK[0].text}, {"from": "gpt", "value": ASK[1].text}]}, [SYSTEM, *ASK]),
    "lmsys": ({"conversation_id": "c", "conversation": [{"role": "user", "content": ASK[0].text}, {"role": "assistant", "content": ASK[1].text}]}, ASK),
    "xtuner": ({"conversation": [{"system": "Be brief.", "input": ASK[0].text, "output": ASK[1].text}]}, [SYSTEM, *ASK]),
    "capybara": ({"source": "Airoboros", "conversation": [{"input": TWICE[k].text, "output": TWICE[k + 1].text} for k in (0, 2)]}, TWICE),
    "ms-swift, pairs": ({"system": "Be brief.", "conversation": [{"human": ASK[0].text, "assistant": ASK[1].text}]}, [SYSTEM, *ASK]),
    "ms-swift, query": ({"query": TWICE[2].text, "response": TWICE[3].text, "history": [[TWICE[0].text, TWICE[1].text]]}, TWICE),
    "lima": ({"conversations": [turn.text for turn in TWICE], "source": "multi_turn"}, TWICE),
    "ultrachat, 200k": ({"prompt": ASK[0].text, "prompt_id": "f0e", "messages": [{"content": ASK[0].text, "role": "user"}, {"content": ASK[1].text, "role": "assistant"}]}, ASK),
    "ultrachat, first": ({"id": "0", "data": [turn.text for turn in TWICE]}, TWICE),
    "openorca": ({"id": "flan.1", "system_prompt": "Be brief.", "question": ASK[0].text, "response": ASK[1].text}, [SYSTEM, *ASK]),
    "openorca, no system": ({"id": "niv.2", "system_prompt": "", "question": ASK[0].text, "response": ASK[1].text}, ASK),
    "alpaca": ({"instruction": ASK[0].text, "input": "", "output": ASK[1].text, "text": "Below is …"}, ASK),
    "alpaca, input": ({"instruction": "Explain.", "input": "3C 273", "output": "A quasar."}, [Turn("user", "Explain.\n\n3C 273"), Turn("assistant", "A quasar.")]),
    "alpaca, history": ({"system": "Be brief.", "instruction": "How far?", "input": None, "output": "Very.", "history": [[ASK[0].text, ASK[1].text]]}, [SYSTEM, *TWICE]),
    "prompt and completion": ({"prompt": ASK[0].text, "completion": ASK[1].text}, ASK),
    "prompt and completion, messages": ({"prompt": [{"role": "user", "content": ASK[0].text}], "completion": [{"role": "assistant", "content": ASK[1].text}]}, ASK),
    "question and answer": ({"question": ASK[0].text, "answer": ASK[1].text, "paper": "2301.00001"}, ASK),
    "columns of a parquet file": ({"messages": None, "prompt": ASK[0].text, "completion": ASK[1].text, "text": None}, ASK),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_published_shape_is_read(shape):
    row, turns = SHAPES[shape]
    [conversation] = read_record(json.loads(json.dumps(row)))
    assert list(conversation.turns) == turns and not conversation.left_out


def test_anthropics_blocks_are_calls_results_and_words():
    call = {"type": "tool_use", "id": "t1", "name": "flux", "input": {"star": "Vega"}}
    thought, words = {"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "I look it up."}
    for result in ("0.03", [{"type": "text", "text": "0.03"}]):
        answer = {"type": "tool_result", "tool_use_id": "t1", "content": result, "is_error": False}
        said = messages(
            ("user", "How bright is Vega?"), ("assistant", [thought, words, call]), ("user", [answer]), ("assistant", "0.03 mag.")
        )
        [conversation] = read_record(said)
        assert conversation.left_out == ("reasoning",)
        assert [(turn.role, turn.text) for turn in conversation.turns] == [
            ("user", "How bright is Vega?"),
            ("assistant", 'I look it up.\n{"name": "flux", "arguments": {"star": "Vega"}}'),
            ("tool", "0.03"),
            ("assistant", "0.03 mag."),
        ]


def test_xtuners_flag_of_an_answer_keeps_it_from_being_learned():
    pairs = [{"input": "a", "output": "b", "output_with_loss": False}, {"input": "c", "output": "d", "output_with_loss": True}]
    [conversation] = read_record({"conversation": pairs})
    assert [turn.train for turn in conversation.turns if turn.role == "assistant"] == [False, True]


def messages(*pairs, **more):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]} | more


REFUSED = {
    "unknown key of a message: 'sep'": {"conversation": [{"input": "a", "output": "b", "sep": "<x>"}]},
    "an answer without an end: need_eos_token false": {"conversation": [{"input": "a", "output": "b", "need_eos_token": False}]},
    "words beside a tool's result in one turn": messages(("user", "a"), ("assistant", [{"type": "tool_use", "name": "f", "input": {}}]), ("user", [{"type": "tool_result", "content": "1"}, {"type": "text", "text": "and?"}]), ("assistant", "b")),
    "content part 'tool_use' in the user's turn": messages(("user", [{"type": "tool_use", "name": "f", "input": {}}]), ("assistant", "b")),
    "content part 'tool_result' in the assistant's turn": messages(("user", "a"), ("assistant", [{"type": "tool_result", "content": "1"}])),
    "no assistant turn": messages(("user", "a")),
    "roles out of order: user where assistant belongs": messages(("user", "a"), ("user", "b"), ("assistant", "c")),
    "roles out of order: assistant where user belongs": {"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]},
    "roles out of order: assistant where user or tool belongs": messages(("user", "a"), ("assistant", "b"), ("assistant", "c")),
    "roles out of order: system where user or tool belongs": messages(("user", "a"), ("assistant", "b"), ("system", "c"), ("assistant", "d")),
    "roles out of order: tool where user belongs": messages(("tool", "a"), ("assistant", "b")),
    "empty user turn": messages(("user", " \n"), ("assistant", "b")),
    "empty assistant turn": {"instruction": "a", "output": ""},
    "unknown role 'critic'": messages(("critic", "a"), ("assistant", "b")),
    "unknown role 'None'": {"messages": [{"text": "a"}]},
    "content part 'image_url' is not text": messages(("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "b")),
    "text is int, not a string": {"question": 7, "answer": "b"},
    "half of a surrogate pair": messages(("user", "\ud83d"), ("assistant", "b")),
    "a loss weight is neither 0 nor 1": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]},
    "loss weight 1 on a user turn": {"messages": [{"role": "user", "content": "a", "loss_weight": 1.0}, {"role": "assistant", "content": "b"}]},
    "history is not a list": {"instruction": "a", "output": "b", "history": [["c"]]},
    "not a list of messages": {"messages": "hello"},
    "not a list of strings": {"data": "hello"},
    "instances is not": {"instruction": "a", "instances": []},
    "bare text without roles": {"text": "Abstract"},
    "evaluation questions without answers": {"question_id": 81, "turns": ["a"], "reference": ["b"]},
    "evaluation answers without their questions": {"question_id": 81, "choices": [{"turns": ["b"]}]},
    "unknown fields: chosen, prompt, rejected": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "unknown fields: none": {},
    "not an object with fields": ["a", "b"],
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_a_row_that_cannot_be_trained_on_is_refused_with_its_reason(reason):
    with pytest.raises(Refused, match=reason):
        read_record(REFUSED[reason])


@pytest.mark.parametrize("field", ["weight", "loss_weight"])
def test_loss_weights_are_respected(field):
    turns = [{"role": "user", "content": "a", field: 0}, {"role": "assistant", "content": "b", field: 0.0}]
    turns += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d", field: 1}]
    [conversation] = read_record({"messages": turns})
    assert [turn.train for turn in conversation.turns if turn.role == "assistant"] == [False, True]


def test_a_last_question_that_nobody_answered_is_left_out_and_said():
    [conversation] = read_record(messages(("user", "a"), ("assistant", "b"), ("user", "c")))
    assert [turn.text for turn in conversation.turns] == ["a", "b"] and conversation.left_out == ("last question, unanswered",)


def test_tool_calls_are_the_assistants_words_and_their_results_are_not():
    calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "M31"}'}}]
    row = {
        "tools": [{"name": "look"}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Look at M31."},
            {"role": "assistant", "content": None, "tool_calls": calls, "reasoning_content": "I should look."},
            {"role": "tool", "content": "a spiral"},
            {"role": "tool", "content": "2.5 Mly"},
            {"role": "assistant", "content": "A spiral."},
        ],
    }
    [conversation] = read_record(row)
    assert [(turn.role, turn.text) for turn in conversation.turns] == [
        ("system", 'Be brief.\n\nTools:\n[{"name": "look"}]'),
        ("user", "Look at M31."),
        ("assistant", '{"name": "look", "arguments": {"at": "M31"}}'),
        ("tool", "a spiral\n2.5 Mly"),
        ("assistant", "A spiral."),
    ]
    assert conversation.left_out == ("reasoning",)


def test_a_self_instruct_row_gives_a_conversation_for_each_instance():
    row = {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "0"}]}
    assert [[turn.text for turn in conversation.turns] for conversation in read_record(row)] == [["Add.\n\n1 1", "2"], ["Add.", "0"]]


REAL_FILES = {  # rows, and the reason why none of them can be read
    "fastchat_dummy_conversation.json": (500, None),
    "fastchat_mt_bench_question.jsonl": (80, "evaluation questions without answers (MT-bench)"),
    "fastchat_mt_bench_reference_gpt4.jsonl": (30, "evaluation answers without their questions (MT-bench)"),
    "llamafactory_alpaca_en_demo.json": (999, None),
    "llamafactory_glaive_toolcall_en_demo.json": (300, None),
    "llamafactory_identity.json": (91, None),
    "llamafactory_reason_tool_use_demo_50.jsonl": (50, None),
    "llamafactory_v1_sft_demo.jsonl": (500, None),
    "mlx_wikisql_train.jsonl": (1000, "bare text without roles; data_tools.prepare corpus reads it"),
    "mlx_wwdc25_train.jsonl": (1800, None),
    "self_instruct_user_oriented_252.jsonl": (252, None),
    "torchtune_alpaca_tiny.json": (100, None),
    "torchtune_chat_tiny.json": (1, None),
}


@pytest.mark.skipif(not REAL.exists(), reason="the real chat files are not beside this checkout")
def test_all_thirteen_real_files_are_read_or_refused_with_the_right_reason():
    assert {path.name for path in REAL.iterdir()} == set(REAL_FILES)
    for name, (rows, reason) in REAL_FILES.items():
        read = refused = 0
        for row in read_records(str(REAL / name)):
            try:
                read += len(read_record(row))
            except Refused as error:
                assert str(error) == reason, name
                refused += 1
        assert (read, refused) == ((rows, 0) if reason is None else (0, rows)), name
        assert find_inputs([str(REAL / name)])[0].records == rows


ROWS = [{"question": f"q{k}", "answer": "ü" * k} for k in range(1, 8)]


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path)


LINES = "\n".join(json.dumps(row) for row in ROWS)
FILES = {
    "a.jsonl": lambda path: path.write_text(LINES + "\n\n"),
    "b.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "c.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "d.json": lambda path: path.write_text(LINES),  # JSON lines by another name
    "e.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps({"train": ROWS}).encode())),
    "f.json": lambda path: path.write_text("\ufeff" + json.dumps(ROWS)),
    "g.parquet": write_parquet,
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_kind_gives_its_rows_whole_and_in_parts(name, tmp_path):
    FILES[name](tmp_path / name)
    [found] = find_inputs([str(tmp_path / name)])
    assert (found.records, found.source) == (7, name[0])
    assert list(read_records(found.path)) == ROWS and list(read_records(found.path, 2, 5)) == ROWS[2:5]


def test_a_folder_gives_its_files_in_order_under_its_own_name(tmp_path):
    (tmp_path / "lima").mkdir()
    for name in ("b.jsonl", "a.jsonl", "README.md"):
        (tmp_path / "lima" / name).write_text(LINES)
    found = find_inputs([str(tmp_path / "lima")])
    assert [(Path(item.path).name, item.source) for item in found] == [("a.jsonl", "lima"), ("b.jsonl", "lima")]


def test_one_conversation_in_a_json_file_is_one_row(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(messages(("user", "a"), ("assistant", "b"))))
    assert len(list(read_records(str(tmp_path / "one.json")))) == 1


BROKEN = {
    "cut.jsonl": (LINES[:-5].encode(), r"cut.jsonl:7: not JSON .*; was the copy cut short\?"),
    "cut.json": (json.dumps(ROWS)[:-9].encode(), r"cut.json: not JSON"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode())[:-12], "copy it again"),
    "not.jsonl.gz": (b"hello", "copy it again"),
    "latin.jsonl": (b'{"question": "\xe9"}', "save it as UTF-8"),
    "number.json": (b"7", "holds one int"),
    "no.parquet": (b"PAR1", "not a whole parquet file"),
    "empty.jsonl": (b"\n", "holds no rows"),
    "chats.csv": (b"a,b", "chat files end in"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_place_and_remedy(name, tmp_path):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ChatError, match=message) as error:
        list(read_records(find_inputs([str(tmp_path / name)])[0].path))
    assert str(error.value).startswith(str(tmp_path / name))


def test_a_missing_file_is_not_taken_for_a_hub_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("nothing.jsonl", "data/nothing.jsonl", "../x", f"{tmp_path}/none", "owner/name/more"):
        with pytest.raises(ChatError, match="no such file"):
            find_inputs([name])


def test_a_hub_name_is_read_through_datasets(tmp_path, monkeypatch):
    """The library stands in for the network, which tests do not reach."""
    import datasets

    data = datasets.Dataset.from_list([{"conversations": ["a", "b"], "source": "stackexchange"}] * 3)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or data)
    [found] = find_inputs(["GAIR/lima"])
    assert (found.path, found.source, found.records) == ("hub:GAIR/lima:train", "lima", 3)
    assert [read_record(row)[0].turns[1].text for row in read_records(found.path, 1, 3)] == ["b", "b"]
    assert find_inputs(["HuggingFaceH4/ultrachat_200k:train_sft"])[0].source == "ultrachat_200k"
    assert asked[0] == ("GAIR/lima", "train") and asked[-1] == ("HuggingFaceH4/ultrachat_200k", "train_sft")


def test_a_data_set_that_the_hub_does_not_give_is_named():
    with pytest.raises(ChatError, match="astro/none:train: the Hub gave no such data set or split"):
        find_inputs(["astro/none"])
