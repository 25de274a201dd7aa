"""Answers made together are those made alone, and it is told whether each ended by itself."""

import dataclasses

import numpy as np

from data_tools.shards.reader import Shards
from tests.made import tiny
from train.data.chat_format import ChatFormat
from train.evaluation.answers import answers, questions

NEVER = ChatFormat("", {}, (319,))


def test_answers_made_together_are_those_made_alone_and_end_where_the_end_comes(tmp_path):
    folder = tiny.save_tiny(tmp_path / "model", seed=3)
    prompts = [list(range(5, 5 + n)) for n in (3, 9, 6)]
    together = answers(folder, prompts, NEVER, 12)
    alone = [answers(folder, [prompt], NEVER, 12)[0] for prompt in prompts]
    assert together == alone and not any(a.ended for a in together)
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([prompts[0]])
    for _ in range(4):  # greedy, by hand
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    new = ids[0, 3:].tolist()
    end = new[-1]
    [cut] = answers(folder, prompts[:1], dataclasses.replace(NEVER, end_ids=(end,)), 12)
    assert cut.ended and len(cut.text) <= len(together[0].text)
    assert answers(folder, [], NEVER, 12) == []


def test_a_question_is_what_stands_before_the_first_word_trained_on(tmp_path):
    folder = tiny.save_tiny(tmp_path / "model")
    documents = [np.arange(3, 3 + n) for n in (10, 12, 14)]
    masks = [np.r_[np.zeros(k, np.uint8), np.ones(len(d) - k, np.uint8)] for k, d in zip((4, 5, 6), documents)]
    tiny.write_shards(tmp_path / "chats", folder, documents, masks=masks)
    shards = Shards.open(tmp_path / "chats")
    asked = questions(shards, 2)
    assert len(asked) == 2 and all(q == shards.tokens(i)[: len(q)].tolist() for i, q in enumerate(asked))
    assert [len(q) for q in asked] == [int(np.flatnonzero(shards.mask(i))[0]) for i in range(2)]
