"""Shared words, names and repetition on texts whose figures can be counted by hand."""

import pytest

from train.evaluation.continuation.items import item_of
from train.evaluation.continuation.overlap import overlap, repetition, rouge_l, rouge_n

TRUTH = "police killed the gunman".split()  # Lin's own example (2004)


def test_rouge_l_is_that_of_lins_example():
    assert rouge_l("police kill the gunman".split(), TRUTH) == 0.75
    assert rouge_l("the gunman kill police".split(), TRUTH) == 0.5


def test_rouge_n_counts_each_word_as_often_as_both_have_it():
    assert rouge_n("the the the".split(), "the cat the".split(), 1) == pytest.approx(2 * 2 / 6)
    assert rouge_n("a b c d".split(), "b c d e".split(), 2) == pytest.approx(2 * 2 / 6)
    assert rouge_n([], TRUTH, 1) == rouge_n(["x"], TRUTH, 2) == 0


def test_names_and_numbers_of_the_truth_are_looked_for_and_inventions_counted():
    prompt, truth = "We observe NGC 1275 with Chandra.", " The core of M87 at 16.5 Mpc, seen by Hubble, has a jet of 20 arcsec in NGC 1275."
    told = overlap(" We find M87 at 16.5 Mpc and NGC 4258 by Hubble", truth, prompt)
    assert told.names == 1.0 and told.numbers == 0.5
    assert told.invented == pytest.approx(1 / 4)  # NGC 4258 of M87, 16.5, NGC 4258, Hubble
    nothing = overlap("", "so it goes", "so")
    assert nothing.names is nothing.numbers is nothing.invented is None and nothing.rouge1 == 0


def test_repetition_is_the_share_of_runs_said_before():
    assert repetition("a b c d e f g".split()) == 0
    assert repetition("a b c d a b c d a b c d".split()) == pytest.approx(1 - 4 / 9)


@pytest.mark.parametrize(
    "text, sentences, prompt",
    [
        ("One star shines. Two stars dance. Three fall.", 1, "One star shines."),
        ("One star shines. Two stars dance. Three fall.", 2, "One star shines. Two stars dance."),
        ("As Smith et al. (1999) show, i.e. in Fig. 3, it is so. And then.", 1, "As Smith et al. (1999) show, i.e. in Fig. 3, it is so."),
        ("We use M. Planck's law. $z=1$ follows.", 1, "We use M. Planck's law."),
        ("It is 3.5 Mpc away. \\alpha is small.", 1, "It is 3.5 Mpc away."),
    ],
)
def test_an_abstract_is_cut_after_whole_sentences(text, sentences, prompt):
    item = item_of("x", text, sentences)
    assert item.prompt == prompt and item.prompt + item.truth == text


def test_an_abstract_without_anything_left_is_none():
    assert item_of("x", "One star shines. Two stars dance.", 2) is None and item_of("x", "", 1) is None
