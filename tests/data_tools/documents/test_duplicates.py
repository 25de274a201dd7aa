"""Duplicates and evaluation texts, against slow and plain reckonings."""

import random
from itertools import combinations

import numpy as np
import pytest

from data_tools.documents.duplicates import (
    NGRAM,
    SHINGLE,
    Duplicate,
    DuplicatesError,
    Evaluation,
    find_duplicates,
    gram_hashes,
    signature,
    texts_in,
    word_hashes,
    words_of,
)


def text(seed: int, words: int = 150) -> list[str]:
    draw = random.Random(seed)
    return [f"w{draw.randrange(5000)}" for _ in range(words)]


def edited(words: list[str], seed: int, edits: int) -> list[str]:
    draw, copy = random.Random(seed), list(words)
    for place in draw.sample(range(len(copy)), edits):
        copy[place] = f"new{draw.randrange(10**6)}"
    return copy


def jaccard(first: list[str], second: list[str]) -> float:
    a, b = ({tuple(words[k : k + SHINGLE]) for k in range(len(words) - SHINGLE + 1)} for words in (first, second))
    return len(a & b) / len(a | b)


def duplicates(texts: list[list[str]], ranks: list, **more) -> list[Duplicate]:
    found = [signature(" ".join(words)) for words in texts]
    return list(find_duplicates([one.exact for one in found], np.stack([one.minhash for one in found]), ranks, **more))


def test_minhash_estimates_the_share_of_common_5_grams() -> None:
    errors = []
    for seed in range(60):
        first = text(seed)
        second = edited(first, seed, seed % 12)
        same = (signature(" ".join(first)).minhash == signature(" ".join(second)).minhash).mean()
        errors.append(same - jaccard(first, second))
    assert np.abs(errors).max() < 0.17 and abs(np.mean(errors)) < 0.02  # 120 permutations: one sigma is at most 0.046


def test_alike_pairs_are_found_and_unlike_ones_are_not() -> None:
    pairs = [(text(seed), edited(text(seed), seed, edits)) for seed in range(200) for edits in (1, 12)]
    alike = [jaccard(*pair) >= 0.9 for pair in pairs]
    unlike = [jaccard(*pair) <= 0.6 for pair in pairs]
    found = [bool(duplicates(list(pair), [0, 1])) for pair in pairs]
    assert sum(alike) > 150 and sum(unlike) > 150
    assert all(hit for hit, is_alike in zip(found, alike) if is_alike)
    assert not any(hit for hit, is_unlike in zip(found, unlike) if is_unlike)


def test_the_best_copy_stays_whatever_the_order() -> None:
    base = text(1)
    texts = [edited(base, seed, 1) for seed in range(6)] + [text(50 + k) for k in range(20)]
    ranks = [f"{(k * 7) % 26:02d}" for k in range(26)]
    best = min(range(6), key=lambda k: ranks[k])
    for seed in range(5):
        order = random.Random(seed).sample(range(26), 26)
        found = duplicates([texts[k] for k in order], [ranks[k] for k in order])
        assert {order[one.dropped] for one in found} == set(range(6)) - {best}
        assert {order[one.kept] for one in found} == {best}


def test_nothing_is_dropped_for_being_like_a_document_that_was_dropped() -> None:
    chains = 0
    for seed in range(30):  # first ~ middle ~ last, but first and last are not alike
        first = text(seed, 600)
        middle = edited(first, seed, 10)
        last = edited(middle, seed + 1000, 10)
        alike = [
            (signature(" ".join(a)).minhash == signature(" ".join(b)).minhash).mean() for a, b in combinations((first, middle, last), 2)
        ]
        if alike[0] >= 0.78 > alike[1] and alike[2] >= 0.78:
            chains += 1
            assert [one.dropped for one in duplicates([first, middle, last], [0, 1, 2], similarity=0.78)] == [1]
    assert chains > 10


def test_case_punctuation_and_tex_signs_make_no_difference() -> None:
    found = duplicates([["The", "$H_0$", "tension,", "again."], ["the", "H_0", "Tension", "again"]], [1, 0])
    assert found == [Duplicate(0, 1, "exact_duplicate", 1.0)]


def test_empty_texts_are_one_text() -> None:
    assert [one.reason for one in duplicates([[], ["!"]], [0, 1])] == ["exact_duplicate"]


def test_hashes_are_the_same_in_every_process() -> None:
    assert gram_hashes(word_hashes(["dark", "matter", "halo"]), 2).tolist() == [4396392380067424774, 18114496469120024239]


def test_a_shared_run_of_thirteen_words_is_found_and_twelve_are_not() -> None:
    question = text(3, 40)
    held = Evaluation.of([("mcq.json", " ".join(question)), ("other.json", " ".join(text(4, 40)))])
    for start, length, expected in ((0, NGRAM, "mcq.json"), (20, NGRAM, "mcq.json"), (10, NGRAM - 1, None)):
        document = text(9, 60) + [word.upper() + "," for word in question[start : start + length]] + text(10, 60)
        found = held.shared_with(" ".join(document))
        assert found == (expected and (expected, " ".join(question[start : start + length])))


def test_runs_are_found_exactly_as_a_set_of_tuples_finds_them() -> None:
    texts = [text(seed, 60) for seed in range(30)]
    held = Evaluation.of([(f"f{k}", " ".join(words)) for k, words in enumerate(texts[:10])], n=4)
    known = {tuple(words[k : k + 4]) for words in texts[:10] for k in range(57)}
    documents = texts + [text(100 + k, 50) + texts[k % 10][5 : 5 + size] for k, size in enumerate([2, 3, 4, 5] * 10)]
    expected = [any(tuple(words[k : k + 4]) in known for k in range(len(words) - 3)) for words in documents]
    assert [held.shared_with(" ".join(words)) is not None for words in documents] == expected
    assert 10 < sum(expected) < len(expected) - 10


def test_short_questions_are_counted_and_an_evaluation_of_only_those_is_refused() -> None:
    assert Evaluation.of([("a", "too short"), ("a", " ".join(text(1)))]).short == 1
    with pytest.raises(DuplicatesError, match="no text of 13 words or more; choose a smaller --ngram"):
        Evaluation.of([("a.json", "What is a quasar?")])


def test_every_string_of_a_json_value_is_looked_at() -> None:
    assert list(texts_in({"q": "a", "choices": ["b", {"c": "d"}], "n": 3})) == ["a", "b", "d"]


def test_words_are_letters_and_digits_of_any_script() -> None:
    assert words_of("Hα–NGC~1275, {\\it é}") == ["hα", "ngc", "1275", "it", "é"]


def test_pairs_of_boilerplate_are_bounded() -> None:
    base = text(7)
    texts = [edited(base, seed, 1) for seed in range(300)]
    found = duplicates(texts, list(range(300)), most=5)
    assert len(found) > 280 and len(list(combinations(range(300), 2))) > 40_000
