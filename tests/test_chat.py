"""A chat's mask covers the assistant's words and their end token, and its ids are those of the published format."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from data_tools.chat import ChatTemplate, Encoded
from data_tools.chat_formats import ChatError, Refused, Turn, read_row
from tests.chat_tokenizers import TURN_TEMPLATE, write_byte_level, write_chatml, write_llama2, write_llama3, write_own_template

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_chats.json").read_text())
MISTRAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers" / "mistral_v1"
MARKS = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>"]
MARKS += ["<|begin_of_text|>", "<|start_header_id|>assistant<|end_header_id|>", "<|assistant|>", "<|im_end|>\n<|im_start|>assistant\n", "<0x0A>"]
MARKS += [" ", "  ", "\n", "\n\n", "\t", "\u3000", "\x00", "é", "e\u0301", "👩‍👩‍👧", "星", "<think>", "{{ bos_token }}", "\ue0000\ue001"]
TEMPLATES = {"llama2": write_llama2, "llama3": write_llama3, "chatml": write_chatml, "model": write_own_template}


class Case:
    """A template with its tokenizer, and a reader of ids that knows nothing of ours."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.template = name, ChatTemplate.load(name, TEMPLATES[name](folder))
        if name == "llama2":
            import sentencepiece

            processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
            self.decode, self.control, self.end = processor.decode, {0, 1, 2}, 2
            self.structure = lambda turns: 2 * len([turn for turn in turns if turn["role"] == "assistant"])  # <s> and </s>
        else:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
            self.control = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
            self.end = tokenizer.token_to_id({"llama3": "<|eot_id|>", "chatml": "<|im_end|>", "model": "</s>"}[name])
            marks_per_turn = {"llama3": 3, "chatml": 2, "model": 2}[name]
            self.structure = lambda turns: (name != "chatml") + marks_per_turn * len(turns)

    def expected(self, text: str) -> str:
        """What the model has to write for this answer, in front of the end token."""
        return {"llama2": text.strip() + " ", "chatml": text}.get(self.name, text.strip())

    def supervised(self, encoded: Encoded) -> list[str]:
        """The stretches trained on, as text, each without its end token, which must be there."""
        found = []
        stretches = re.finditer("1+", "".join(map(str, encoded.mask)))
        for ids in (encoded.tokens[stretch.start() : stretch.end()] for stretch in stretches):
            assert ids[-1] == self.end, (self.name, ids)
            found.append(self.decode(ids[:-1]))
        return found


@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> dict[str, Case]:
    return {name: Case(name, tmp_path_factory.mktemp(name)) for name in TEMPLATES}


SAYS = ["What is a blazar?", "The flux varies.", "42", " A", "b ", "\tc"]
piece = st.sampled_from([*MARKS, *["STRANGE"] * 9, *SAYS])  # STRANGE: any Unicode, drawn once a chat
words = st.tuples(piece, st.sampled_from(SAYS), piece).map("".join)
message = st.tuples(words, words, st.sampled_from([None, None, None, 0, 1]))
blank = st.sampled_from([*[None] * 9, "", " \n\t"])  # what the last question is replaced by
chat = st.tuples(st.sampled_from([None, "Be brief.", " ", *MARKS]), st.lists(message, min_size=1, max_size=4), blank, st.integers(1, 200))
chat = st.tuples(chat, st.text(max_size=10))


def as_messages(system: str | None, pairs: list[tuple[str, str, int | None]]) -> list[dict]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer, weight in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "weight": weight}]
    return messages


def test_5000_random_chats_supervise_exactly_the_assistants_words_and_their_end_token(cases):
    seen = {"refused": 0, "unwritable": 0, "cut": 0, **dict.fromkeys(TEMPLATES, 0)}

    phases, unchecked = [Phase.explicit, Phase.generate], list(HealthCheck)

    @settings(max_examples=6000, deadline=None, database=None, derandomize=True, phases=phases, suppress_health_check=unchecked)
    @given(chat)
    @example(((None, [("a", "b", None)] * 4, None, 30), ""))
    def run(drawn):
        (system, pairs, blank, seq_len), strange = drawn
        messages = json.loads(json.dumps(as_messages(system, pairs)).replace("STRANGE", json.dumps(strange)[1:-1]))
        messages[-2]["content"] = messages[-2]["content"] if blank is None else blank
        if any(not message["content"].strip() for message in messages if message["role"] != "system"):
            with pytest.raises(Refused, match="empty"):
                read_row({"messages": messages})
            seen["refused"] += 1
            return
        [conversation] = read_row({"messages": messages})
        kept = [message for message in messages if message["content"].strip()]
        answers = [(message["content"], message["weight"]) for message in kept if message["role"] == "assistant"]
        for case in cases.values():
            if case.name == "llama2" and any("▁" in answer for answer, _ in answers):  # SentencePiece reads it as a space
                with pytest.raises(Refused, match="write an answer back"):
                    case.template.encode(conversation.turns)
                seen["unwritable"] += 1
                continue
            encoded = case.template.encode(conversation.turns)
            assert len(encoded.tokens) == len(encoded.mask)
            assert case.supervised(encoded) == [case.expected(answer) for answer, weight in answers if weight != 0]
            assert sum(id in case.control for id in encoded.tokens) == case.structure(kept)
            cut = encoded.cut(seq_len)
            if cut is not None:
                assert len(cut.tokens) <= seq_len and cut.tokens == encoded.tokens[: len(cut.tokens)]
                whole = [case.expected(answer) for answer, weight in answers[: len(cut.ends)] if weight != 0]
                assert case.supervised(cut) == whole
                seen["cut"] += cut is not encoded
            seen[case.name] += 1

    run()
    assert min(seen[name] for name in TEMPLATES) >= 5000 and seen["cut"] > 1000 and seen["refused"] > 200, seen


def test_truncation_at_every_length_stops_after_an_answer_and_loses_none_that_fits(cases):
    lengths = 0
    for golden in GOLDEN:
        for case in cases.values():
            turns = [Turn(**turn) for turn in golden["turns"]]
            encoded = case.template.encode(turns)
            answers = [case.expected(turn.text) for turn in turns if turn.role == "assistant"]
            assert len(encoded.ends) == len(answers)
            for seq_len in range(1, len(encoded.tokens) + 2):
                fitting = [end for end in encoded.ends if end <= seq_len]
                cut = encoded.cut(seq_len)
                assert (cut is None) == (not fitting)
                if cut is not None:
                    assert case.supervised(cut) == answers[: len(fitting)] and len(cut.tokens) <= seq_len
                lengths += 1
    assert lengths > 4000


def published_llama2(processor, published: list[list[str]]) -> tuple[list[int], list[int]]:
    """Ids as the published reference makes them, one text a pair of turns, and a mask from the tokenizer's own offsets."""
    tokens, mask = [], []
    for prompt, answer in published:
        pieces = processor.encode(prompt + answer, return_type="proto").pieces
        tokens += [1, *(piece.id for piece in pieces), 2]
        mask += [0, *(int(piece.begin >= len(prompt)) for piece in pieces), 1]
        assert any(piece.begin == len(prompt) for piece in pieces), "the answer starts inside a token"
    return tokens, mask


def test_golden_llama2_chats_have_the_ids_of_the_published_format(cases, tmp_path):
    import sentencepiece

    folders = [write_llama2(tmp_path / "tiny"), *([MISTRAL] if MISTRAL.exists() else [])]
    for folder in folders:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        template = ChatTemplate.load("llama2", folder)
        for golden in GOLDEN:
            encoded = template.encode([Turn(**turn) for turn in golden["turns"]])
            assert (encoded.tokens, encoded.mask) == published_llama2(processor, golden["published"]), golden["name"]
    assert len(GOLDEN) == 20
