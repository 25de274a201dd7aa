"""Questions: which question-and-answer pairs are grounded in their paper and kept, and why the others are dropped."""

import gzip
import json
import re

import pytest

from data_tools.questions.check import judge, parse
from tests.made.where import SHARED

ABSTRACT = (
    r"We observed the broad line galaxy OQ 208 with the Hubble Space Telescope in 1991. The H$\alpha$ flux rose by 40\% to "
    r"$3.20\times10^{-14}$ and the temperature of the disk is 12{,}500 K. In a $\Lambda$CDM cosmology three of the clouds lie at 1,404 pc "
    r"from KIC 8462852 and NGC1068."
)
SOUND = [
    "The galaxy OQ 208 was observed with the Hubble Space Telescope.",
    "The Hα flux rose by 40% to 3.2×10⁻¹⁴ in the galaxy.",
    "The temperature of the disk is 12,500 K, and the Halpha flux rose by 40 %.",
    "Edge: In a ΛCDM cosmology, the clouds lie at 1404 pc, and 3 clouds lie there.",
    "OQ 208's clouds lie at 1404 pc from KIC8462852 and from NGC 1068.",
]
UNSOUND = {
    "The temperature of the disk of the galaxy is 12,600 K.": ("number not in the paper", "12600"),
    "The flux rose by 40.5% in the broad line galaxy OQ 208.": ("number not in the paper", "40.5"),
    "The seven clouds lie near the galaxy OQ 208.": ("number not in the paper", "7"),
    "The galaxy OQ 208 was observed with the Spitzer Space Telescope.": ("name not in the paper", "Spitzer"),
    "Edwin Hubble observed the broad line galaxy and the clouds.": ("name not in the paper", "Edwin"),
    "The clouds of the galaxy were observed with JWST in 1991.": ("name not in the paper", "JWST"),
    "The galaxy hosts supernovae that explode regularly through accretion.": ("too few of the paper's words", "0.17 of 6"),
    "This paper observed the flux of the broad line galaxy OQ 208.": ("not self-contained", "This paper"),
    "As Figure 3 shows, the flux of the galaxy rose by 40%.": ("not self-contained", "Figure 3"),
    "It rose by 40%.": ("too short", "29 and 15 characters"),
    "The clouds lie at \x07 1404 pc from the galaxy.": ("malformed", "control characters"),
}


def reply(*answers: str) -> str:
    return json.dumps([{"question": f"What was found about it, no {'x' * i}?", "answer": answer} for i, answer in enumerate(answers)])


@pytest.mark.parametrize("answer", SOUND)
def test_an_answer_grounded_in_the_paper_is_kept(answer):
    (pair,) = judge(reply(answer), ABSTRACT, 3)
    assert (pair.dropped, pair.detail, pair.answer) == (None, "", answer)


@pytest.mark.parametrize("answer", UNSOUND)
def test_an_answer_not_grounded_is_dropped_with_its_reason(answer):
    (pair,) = judge(reply(answer), ABSTRACT, 3)
    assert (pair.dropped, pair.detail) == UNSOUND[answer]


def test_a_question_that_names_what_the_paper_does_not_is_dropped():
    (pair,) = judge(json.dumps({"question": "What did Chandra find about it?", "answer": SOUND[0]}), ABSTRACT, 3)
    assert (pair.dropped, pair.detail) == ("name not in the paper", "Chandra")


def test_a_question_asked_before_and_pairs_beyond_the_wanted_are_dropped():
    twice = [
        {"question": "Which galaxy was observed?", "answer": SOUND[0]},
        {"question": "which galaxy was observed ?", "answer": SOUND[0]},
    ]
    assert [pair.dropped for pair in judge(json.dumps(twice), ABSTRACT, 3)] == [None, "asked before"]
    assert [pair.dropped for pair in judge(reply(*SOUND), ABSTRACT, 3)] == [None] * 3 + ["more than asked for"] * 2


@pytest.mark.parametrize(
    "text, found",
    [
        ('Sure!\n```json\n[{"question": "a", "answer": "b"}]\n```', [("a", "b")]),
        ('{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d"}', [("a", "b"), ("c", "d")]),
        ('{"pairs": [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]}', [("a", "b"), ("c", "d")]),
        ('[{"question": "a", "answer": "b"}, {"question": "c", "ans', [("a", "b")]),
        ('{"pairs": [{"question": "a", "answer": "b"}, {"question"', [("a", "b")]),
        (r'[{"question": "a", "answer": "$\alpha \times 10^3$ \rho \nu \upsilon \\beta\nnext \u00e9 \"x\""}]', None),
        ("no pairs at all", []),
        ("{" * 100_000, []),
    ],
)
def test_pairs_are_found_in_fences_lines_wrappers_and_cut_lists(text, found):
    got = [(pair.question, pair.answer) for pair in parse(text)]
    assert got == (found if found is not None else [("a", '$\\alpha \\times 10^3$ \\rho \\nu \\upsilon \\beta\nnext é "x"')])


def test_a_reply_without_pairs_is_counted_as_malformed():
    assert [pair.dropped for pair in judge("I cannot help with that.", ABSTRACT, 3)] == ["malformed"]
    assert [pair.dropped for pair in judge("{" * 300_000, ABSTRACT, 3)] == ["malformed"]
    assert [pair.dropped for pair in judge('[{"question": "a"}]', ABSTRACT, 3)] == ["malformed"]


ABSTRACTS = SHARED / "abstracts" / "astro_validation.jsonl.gz"


@pytest.mark.skipif(not ABSTRACTS.is_file(), reason="no real abstracts here")
def test_on_real_abstracts_own_sentences_are_kept_and_foreign_ones_and_changed_numbers_dropped():
    """One sentence each of 250 abstracts as the answer: to its own abstract, to another, and to its own with one number changed."""
    with gzip.open(ABSTRACTS, "rt") as file:
        texts = [json.loads(line)["abstract"] for line, _ in zip(file, range(500))]
    sentences = [[s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text) if 60 < len(s) < 400] for text in texts]
    own, foreign, changed = [], [], []
    for i in range(0, 500, 2):
        if not sentences[i] or not sentences[i + 1]:
            continue
        answer = sentences[i][len(sentences[i]) // 2]
        own.append(judge(reply(answer), texts[i], 1)[0].dropped)
        foreign.append(judge(reply(answer), texts[i + 1], 1)[0].dropped)
        if number := re.search(r"\d+(?:\.\d+)?", answer):
            another = f"{float(number.group()) * 1.37 + 1.11:.2f}"
            changed.append(judge(reply(answer[: number.start()] + another + answer[number.end() :]), texts[i], 1)[0].dropped)
    assert len(own) > 200 and len(changed) > 50
    assert set(own) <= {None, "not self-contained"} and own.count(None) > 0.9 * len(own)
    assert foreign.count(None) <= 0.01 * len(foreign)
    assert changed.count(None) == 0
