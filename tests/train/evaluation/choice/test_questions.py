"""Questions as the field writes them are one shape, and an answer that is none of the choices is not guessed at."""

import pytest

from train.evaluation.choice.questions import question_of

PLANETS = ["Mars", "Venus", "Saturn", "Io"]
SHAPES = [
    {"question": "q", "choices": PLANETS, "answer": 2},
    {"question": "q", "choices": PLANETS, "answer": "C"},
    {"question": "q", "choices": PLANETS, "answer": "(c)"},
    {"question": "q", "choices": PLANETS, "answer": "2"},
    {"question": "q", "choices": PLANETS, "answer": 2.0},
    {"question": "q", "choices": PLANETS, "answer": "Saturn"},
    {"question": "q", **dict(zip("ABCD", PLANETS)), "answer": "C"},
    {"input": "q", **dict(zip("ABCD", PLANETS)), "target": "C"},
    {"question": "q", "choices": {"text": PLANETS, "label": list("ABCD")}, "answerKey": "C"},
    {"question": "q", "choices": {"text": PLANETS, "label": list("1234")}, "answerKey": "3"},  # ARC has both kinds of labels
    {"question": "q", "options": dict(zip("ABCD", PLANETS)), "answer": "C"},
    {"question": "q", "options": PLANETS, "answer_index": 2},
]


@pytest.mark.parametrize("record", SHAPES, ids=str)
def test_every_shape_gives_the_same_question(record):
    one = question_of(record, 7)
    assert (one.text, one.choices, one.answer, one.id) == ("q", tuple(PLANETS), 2, "7")


def test_a_withheld_answer_is_none():
    for record in ({"question": "q", **dict(zip("ABCD", PLANETS))}, {"question": "q", "choices": PLANETS, "answer": -1}):
        assert question_of(record, 0).answer is None


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"question": " ", "choices": PLANETS}, "no question"),
        ({"question": "q"}, "fewer than two choices"),
        ({"question": "q", "A": "x", "C": "y"}, "fewer than two choices"),
        ({"question": "q", "choices": ["x", ""], "answer": 0}, "an empty choice"),
        ({"question": "q", "choices": PLANETS, "answer": 4}, "none of the choices"),
        ({"question": "q", "choices": PLANETS, "answer": "E"}, "none of the choices"),
        ({"question": "q", "choices": PLANETS, "answer": True}, "none of the choices"),
        ({"question": "q", "choices": ["x", "x", "y"], "answer": "x"}, "none of the choices"),
        ("not JSON", "not JSON"),
    ],
    ids=str,
)
def test_what_is_no_question_has_its_reason(record, reason):
    assert reason in question_of(record, 0)


def test_another_order_keeps_the_right_answer():
    one = question_of(SHAPES[0], 0).ordered([3, 2, 0, 1])
    assert one.choices == ("Io", "Saturn", "Mars", "Venus") and one.choices[one.answer] == "Saturn"
