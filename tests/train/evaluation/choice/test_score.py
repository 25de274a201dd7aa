"""Likelihoods of letters and answers against transformers alone; the letter's token is the one that follows the prompt."""

import json
from pathlib import Path

import pytest
import torch

from tests.made.tiny import save_tiny
from train.evaluation.choice.prompts import Prompts, fill, letter_in
from train.evaluation.choice.questions import Question
from train.evaluation.choice.score import Asked, score
from train.evaluation.choice.verdict import by_order, difference, share
from train.evaluation.loaded import Loaded
from train.evaluation.texts import EvaluationError
from train.world.ranks import World

QUESTIONS = [Question(str(n), f"What is star {n}?", (f"one {n}", f"a second {n * n}", "third", f"the 4th {n}"), n % 4) for n in range(19)]
ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("choice") / "model")


@pytest.fixture(scope="module")
def model(folder) -> Loaded:
    return Loaded.of(folder, "tiny", torch.device("cpu"), row_tokens=300)


def log_likelihood(folder: Path, prompt: str, continuation: str) -> float:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    whole, start = tokenizer(prompt + continuation, return_tensors="pt").input_ids, len(tokenizer(prompt).input_ids)
    with torch.no_grad():
        logs = torch.log_softmax(theirs(whole).logits[0], -1)
    return float(sum(logs[k - 1, whole[0, k]] for k in range(start, whole.shape[1])))


def test_letters_and_answers_have_the_likelihood_transformers_gives_them(model, folder, tmp_path):
    found = score(model, QUESTIONS, Prompts(), Asked(), {}, tmp_path, ALONE)
    for question, given in list(zip(QUESTIONS, found, strict=True))[::6]:
        options = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", question.choices))
        prompt = f"{question.text}\n{options}Answer:"
        # the blank before the letter is a token of its own here, and the same for all
        told = [log_likelihood(folder, prompt, f" {letter}") - log_likelihood(folder, prompt, " ") for letter in "ABCD"]
        assert max(abs(a - b) for a, b in zip(told, given.letters[0], strict=True)) < 1e-4
        told = [log_likelihood(folder, f"Question: {question.text}\nAnswer:", f" {choice}") for choice in question.choices]
        assert max(abs(a - b) for a, b in zip(told, given.answers, strict=True)) < 1e-3


def test_letters_that_one_token_does_not_tell_apart_are_refused(model, tmp_path):
    class Doubling:
        """A tokenizer that ends every text by one and the same piece."""

        eos_token_id, chat_template = None, None

        def __call__(self, text: str) -> dict:
            return {"input_ids": [ord(c) % 250 for c in text] + [7]}

    odd = Loaded("odd", model.model, Doubling(), True, "")
    object.__setattr__(odd.tokenizer, "bos_token_id", None)
    with pytest.raises(EvaluationError, match="does not tell the letters ABCD apart"):
        score(odd, QUESTIONS, Prompts(), Asked(), {"model": "odd"}, tmp_path, ALONE)


def test_other_orders_are_the_seeds_alone_and_keep_track_of_the_answer(model, tmp_path):
    asked = Asked(("letters",), orders=3, seed=5)
    found = score(model, QUESTIONS, Prompts(), asked, {}, tmp_path, ALONE)
    assert found == score(model, QUESTIONS, Prompts(), asked, {}, tmp_path / "again", ALONE)
    told = by_order(QUESTIONS, found, asked)
    assert len(told["accuracy"]) == 3 and told["accuracy"][0] == share("letters", QUESTIONS, found).accuracy


def test_a_prompt_beyond_the_models_positions_loses_its_beginning_and_says_so(model, tmp_path):
    long = [Question("l", "w" * 600, ("a", "b"), 0), QUESTIONS[0]]
    found = score(model, long, Prompts(), Asked(("letters", "answers", "generated"), new_tokens=4), {}, tmp_path, ALONE)
    assert [one.cut for one in found] == [True, False] and all(torch.isfinite(torch.tensor(one.answers)).all() for one in found)


def test_articles_widen_the_interval_and_pairs_are_compared_exactly():
    questions = [Question(str(n), "q", ("a", "b"), 0, cluster=str(n // 5)) for n in range(100)]
    from train.evaluation.choice.score import Given

    right = [Given(letters=((0.0, -1.0) if n // 5 % 2 else (-1.0, 0.0),)) for n in range(100)]
    all_right = [Given(letters=((0.0, -1.0),))] * 100
    clustered = share("letters", questions, right)
    alone = share("letters", [Question(q.id, q.text, q.choices, 0) for q in questions], right)
    assert clustered.accuracy == alone.accuracy == 0.5
    assert clustered.interval.high - clustered.interval.low > 1.7 * (alone.interval.high - alone.interval.low)
    told = difference([Question(q.id, q.text, q.choices, 0) for q in questions], alone, share("letters", questions, all_right))
    assert told["difference"] == 0.5 and told["only_second_right"] == 50 and abs(told["p"] - 2 / 2**50) < 1e-20


@pytest.mark.parametrize(
    "text, letter",
    [
        ('{"ANSWER": "B", "EXPLANATION": "A is wrong"}', "B"),
        ('```json\n{"ANSWER": "c"}```', "C"),
        ("ANSWER: D", "D"),
        ("The answer is (A).", "A"),
        ("C. Saturn has rings", "C"),
        (" B", "B"),
        ("Well, I do not know", None),
        ("The planet with rings is Saturn.", "C"),
        ("Either Saturn or Mars", None),
        ("Answer: E", None),
        ("", None),
    ],
)
def test_a_written_letter_is_read(text, letter):
    question = Question("", "q", ("Mars", "Venus", "Saturn", "Io"), None)
    assert letter_in(text, question) == (None if letter is None else "ABCD".index(letter))


def test_a_prompt_of_ones_own_keeps_its_other_braces():
    told = fill('{question}\n{options}\nResponse:\n{\n"ANSWER": "', QUESTIONS[1])
    assert told.startswith("What is star 1?\nA: one 1\n") and told.endswith('{\n"ANSWER": "') and json.dumps("x")
