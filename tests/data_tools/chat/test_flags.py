"""A turn that its record marks as not to be learned is not learned, whatever the mark is called; an unclear mark refuses the record."""

import json

import pytest

from data_tools.chat.conversations import Refused, read_record
from data_tools.chat.template import ChatTemplate
from tests.made.chat_tokenizers import write_chatml, write_llama2

YES = [
    "train",
    "training",
    "trainable",
    "learn",
    "is_train",
    "isTrain",
    "loss",
    "loss_mask",
    "loss-mask",
    "train_on_turn",
    "weight",
    "loss_weight",
]
YES += ["loss_scale", "output_with_loss", "supervised", "trainOnTurn", "is_trainable"]
NO = ["mask", "masked", "skip", "is_masked", "Masked", "no_loss", "skip_training"]
FALSE, TRUE = [False, 0, 0.0, "false", "False", "no", "0", "off"], [True, 1, 1.0, "true", "True", "yes", "1", "on"]


def chat(**flags) -> dict:
    """Two questions; the flags stand on the first answer."""
    texts = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in texts]
    messages[1] |= flags
    return {"messages": messages}


def trained(record: dict) -> list[bool]:
    [conversation] = read_record(json.loads(json.dumps(record)))
    return [turn.train for turn in conversation.turns if turn.role == "assistant"]


@pytest.mark.parametrize("name", [*YES, *NO])
def test_every_spelling_of_a_mark_is_read_in_every_form_of_its_value(name):
    learn, leave = (TRUE, FALSE) if name in YES else (FALSE, TRUE)
    assert [trained(chat(**{name: value})) for value in leave] == [[False, True]] * len(leave)
    assert [trained(chat(**{name: value})) for value in learn] == [[True, True]] * len(learn)
    assert trained(chat(**{name: None})) == [True, True]


@pytest.mark.parametrize("name", [*YES, *NO])
def test_a_record_may_mark_a_whole_conversation_or_give_a_list(name):
    learn, leave = (1, 0) if name in YES else (0, 1)
    assert trained(chat() | {name: leave}) == [False, False] and trained(chat() | {name: learn}) == [True, True]
    question = 0 if name in YES else 1
    assert trained(chat() | {name: [question, leave, question, learn]}) == [False, True]
    if name != "mask":
        assert trained(chat() | {name: [leave, learn]}) == [False, True]
    for shape in (
        {"instruction": "a", "output": "b"},
        {"question": "a", "answer": "b"},
        {"conversations": ["a", "b"]},
        {"data": ["a", "b"]},
    ):
        assert trained(shape | {name: leave}) == [False] and trained(shape | {name: learn}) == [True]


def test_nemo_names_the_role_that_is_masked():
    assert trained(chat() | {"mask": "User"}) == [True, True] and trained(chat() | {"mask": "Assistant"}) == [False, False]


def test_an_instance_of_a_self_instruct_record_may_be_marked():
    row = {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2", "train": False}, {"input": "0 1", "output": "1"}]}
    assert [conversation.turns[1].train for conversation in read_record(row)] == [False, True]


def on_question(**flags) -> dict:
    record = chat()
    record["messages"][0] |= flags
    return record


UNCLEAR = {
    "disagree": [
        chat(train=True, weight=0), chat(mask=True, train=True), chat(loss=0, loss_mask=1), chat() | {"train": 0, "loss": 1},
        chat(train=True) | {"train": False}, chat(weight=1) | {"loss_mask": [0, 0, 0, 1]}, chat(weight=0) | {"loss_mask": [0, 1, 0, 1]},
    ],
    "a flag is neither true nor false: 'train'": [chat(train=value) for value in (2, 0.5, "maybe", [1], {"x": 1})],
    "a loss weight is neither 0 nor 1": [chat(weight=value) for value in (2, 0.5, -1, "0.5", float("nan"))],
    "loss weight 1 on a user turn": [
        on_question(train=True), on_question(loss_mask=1), chat() | {"loss_mask": [1, 1, 0, 1]}, on_question(weight="1"),
    ],
    "neither a flag for each turn nor one for each answer": [chat() | {"loss_mask": [0, 1, 1]}, chat() | {"train": [False]}],
    "may mean either": [
        chat() | {"mask": [0, 0, 0, 1]}, chat() | {"mask": [0, 1]},
        {"messages": [message | {"mask": k} for message, k in zip(chat()["messages"], (0, 0, 0, 1))]},
    ],
    "unknown key of a message: 'trained_by'": [chat(trained_by="me")],
    "unknown key of a message: 'labels'": [chat(labels=[-100])],
}  # fmt: skip


@pytest.mark.parametrize("reason", UNCLEAR)
def test_a_mark_that_is_unclear_refuses_the_record(reason):
    for record in UNCLEAR[reason]:
        with pytest.raises(Refused, match=reason):
            read_record(record)


def test_marks_that_take_nothing_away_from_a_question_are_no_fault():
    for flags in ({"train": False}, {"weight": 0}, {"mask": True}, {"mask": False}, {"skip": 0}, {"masked": None}):
        assert trained(on_question(**flags)) == [True, True]


ANSWER = "I'm doing very well, thank you!"  # axolotl's own example of a marked text, with its offsets
DETAIL = [(0, 8, False), (9, 18, True), (19, 30, False)]


def detailed(*details: tuple[int, int, object], text: str = ANSWER, **more) -> dict:
    spans = [{"begin_offset": start, "end_offset": end, "train": train} for start, end, train in details]
    return chat(content=text, train_detail=spans, **more)


@pytest.mark.parametrize("name, write", [("chatml", write_chatml), ("llama2", write_llama2)])
def test_only_the_spans_of_train_detail_are_learned_and_the_end(name, write, tmp_path):
    template = ChatTemplate.load(name, write(tmp_path))

    def learned(record: dict) -> str:
        [conversation] = read_record(record)
        encoded = template.encode(conversation.turns[:2])
        assert encoded.tokens == template.encode(read_record(chat(content=record["messages"][1]["content"]))[0].turns[:2]).tokens
        ids = [id for id, train in zip(encoded.tokens, encoded.mask) if train]
        assert not ids or ids[-1] in template.end_ids
        return template._encoder.decode(ids[:-1]).strip()

    assert learned(detailed(*DETAIL)) == "very well"
    assert learned(detailed((10, 18, 1))) == "very well"  # the space in front of a word is no part of the offsets of many
    assert learned(detailed((0, 30, "true"))) == ANSWER
    assert learned(detailed((0, 30, False))) == learned(detailed()) == ""
    assert learned(detailed((0, 3, True), text="星系 é x")) in ("星系", "星系 é")  # several tokens a character
    assert learned(detailed((2, 3, True), text="  ab  ")) == "ab"
    assert learned(detailed((0, 11, False), (12, 15, True), text="Let me look. Now")) == "Now"


UNCLEAR_DETAIL = {
    "reaches outside its text": [detailed((0, 31, True)), detailed((40, 50, False)), detailed((5, 3, True)), detailed((-1, 3, True))],
    "says both of one character": [detailed((0, 9, True), (9, 20, False))],
    "is not a list of": [chat(train_detail="0-3"), chat(train_detail=[{"start": 0, "end": 1, "train": True}]), detailed((0, True, 1))],
    "a flag is neither true nor false": [detailed((0, 3, None)), detailed((0, 3, 0.5))],
    "train_detail and a flag of its turn disagree": [detailed((0, 3, True), train=False)],
    "train_detail beside tool calls": [detailed((0, 3, train), tool_calls=[{"name": "x"}]) for train in (True, False)],
    "train_detail on a text in parts": [chat(content=[{"type": "text", "text": "b"}], train_detail=[{"begin_offset": 0, "end_offset": 0, "train": True}])],
    "train_detail on a user turn": [on_question(train_detail=[{"begin_offset": 0, "end_offset": 0, "train": True}])],
}  # fmt: skip


@pytest.mark.parametrize("reason", UNCLEAR_DETAIL)
def test_train_detail_that_is_unclear_refuses_the_record(reason):
    for record in UNCLEAR_DETAIL[reason]:
        with pytest.raises(Refused, match=reason):
            read_record(record)
