"""A chat's mask covers the assistant's words and their end token, and its ids are those of the published format."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from data_tools.chat.conversations import ChatError, Refused, Turn, read_record
from data_tools.chat.template import ChatTemplate, Encoded
from tests.made.chat_tokenizers import TURN_TEMPLATE, write_byte_level, write_chatml, write_llama2, write_llama3, write_own_template
from tests.made.where import SHARED

GOLDEN = json.loads((Path(__file__).parent / "golden_chats.json").read_text())
MISTRAL = SHARED / "tokenizers" / "mistral_v1"
MARKS = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>"]
MARKS += [
    "<|begin_of_text|>",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<|assistant|>",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<0x0A>",
]
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
# marks of an answer, in words and values of many formats, and whether they leave it to be learned
MARKED = [*[({}, True)] * 12, ({"weight": None}, True), ({"weight": 0}, False), ({"weight": 1}, True), ({"train": False}, False)]
MARKED += [({"trainable": "true"}, True), ({"loss_mask": 0, "weight": 0.0}, False), ({"mask": True}, False), ({"skip": "no"}, True)]
MARKED += [({"masked": 1, "learn": "False"}, False), ({"train_detail": []}, False), ({"is_train": None, "loss": True, "id": 7}, True)]
message = st.tuples(words, words, st.sampled_from(MARKED))
blank = st.sampled_from([*[None] * 9, "", " \n\t"])  # what the last question is replaced by
chat = st.tuples(st.sampled_from([None, "Be brief.", " ", *MARKS]), st.lists(message, min_size=1, max_size=4), blank, st.integers(1, 200))
chat = st.tuples(chat, st.text(max_size=10))


def as_messages(system: str | None, pairs: list[tuple[str, str, tuple[dict, bool]]]) -> list[dict]:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for number, (question, answer, (marks, _)) in enumerate(pairs):
        marked = [{}, {"weight": 0}, {"train": False}, {"mask": True}][number % 4]  # of a question, which is never learned
        messages += [{"role": "user", "content": question} | marked, {"role": "assistant", "content": answer} | marks]
    return messages


@pytest.mark.slow
def test_5000_random_chats_supervise_exactly_the_assistants_words_and_their_end_token(cases):
    seen = {"refused": 0, "unwritable": 0, "cut": 0, "marked": 0, **dict.fromkeys(TEMPLATES, 0)}

    phases, unchecked = [Phase.explicit, Phase.generate], list(HealthCheck)

    @settings(max_examples=6400, deadline=None, database=None, derandomize=True, phases=phases, suppress_health_check=unchecked)
    @given(chat)
    @example(((None, [("a", "b", ({}, True))] * 4, None, 30), ""))
    def run(drawn):
        (system, pairs, blank, seq_len), strange = drawn
        messages = json.loads(json.dumps(as_messages(system, pairs)).replace("STRANGE", json.dumps(strange)[1:-1]))
        messages[-2]["content"] = messages[-2]["content"] if blank is None else blank
        if any(not message["content"].strip() for message in messages if message["role"] != "system"):
            with pytest.raises(Refused, match="empty"):
                read_record({"messages": messages})
            seen["refused"] += 1
            return
        [conversation] = read_record({"messages": messages})
        kept = [message for message in messages if message["content"].strip()]
        texts = [message["content"] for message in kept if message["role"] == "assistant"]
        answers = list(zip(texts, (learn for _, _, (_, learn) in pairs), strict=True))
        seen["marked"] += not all(learn for _, learn in answers)
        for case in cases.values():
            if case.name == "llama2" and any("▁" in answer for answer, _ in answers):  # SentencePiece reads it as a space
                with pytest.raises(Refused, match="write an answer back"):
                    case.template.encode(conversation.turns)
                seen["unwritable"] += 1
                continue
            encoded = case.template.encode(conversation.turns)
            assert len(encoded.tokens) == len(encoded.mask)
            assert case.supervised(encoded) == [case.expected(answer) for answer, learn in answers if learn]
            assert sum(id in case.control for id in encoded.tokens) == case.structure(kept)
            cut = encoded.cut(seq_len)
            if cut is not None:
                assert len(cut.tokens) <= seq_len and cut.tokens == encoded.tokens[: len(cut.tokens)]
                whole = [case.expected(answer) for answer, learn in answers[: len(cut.ends)] if learn]
                assert case.supervised(cut) == whole
                seen["cut"] += cut is not encoded
            seen[case.name] += 1

    run()
    assert min(seen[name] for name in TEMPLATES) >= 5000 and seen["cut"] > 1000 and seen["refused"] > 200 < seen["marked"], seen


@pytest.mark.slow
def test_random_spans_of_answers_supervise_the_tokens_whose_words_they_cover(cases, tmp_path):
    """Against the tokenizers' own offsets, which the encoder does not use."""
    import sentencepiece
    from tokenizers import Tokenizer

    processor = sentencepiece.SentencePieceProcessor(model_file=str(write_llama2(tmp_path / "a") / "tokenizer.model"))
    tokenizer = Tokenizer.from_file(str(write_chatml(tmp_path / "b") / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    seen = {"some": 0, "none": 0}

    def characters(text: str, name: str) -> list[tuple[int, int]]:
        """[start, end) of each of its tokens, in characters; a token of some bytes of a character has all of it."""
        if name == "chatml":
            return tokenizer.encode(text, add_special_tokens=False).offsets
        front = "[INST] q [/INST] "
        pieces = [piece for piece in processor.encode(f"{front}{text} ", return_type="proto").pieces if piece.end > len(front) - 1]
        starts = [len(front[:-1].encode())]  # in bytes, of all characters behind the question
        for character in f" {text} ":
            starts.append(starts[-1] + len(character.encode()))
        at = [(sum(s <= piece.begin for s in starts) - 2, sum(s < piece.end for s in starts) - 1) for piece in pieces]
        return [(max(start, 0), min(end, len(text))) for start, end in at]

    @settings(
        max_examples=300, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(
        st.lists(st.sampled_from([*SAYS, " ", "é", "星", "👩‍👩‍👧", "\n", "word", "</s>"]), min_size=1, max_size=6),
        st.lists(st.integers(0, 12), min_size=3, max_size=8),
    )
    def run(pieces, cuts):
        text = "".join(pieces).strip()
        edges = sorted({cut for cut in cuts if cut < len(text)})
        spans = list(zip(edges[::2], edges[1::2]))
        learned = [any(start <= k <= end for start, end in spans) for k in range(len(text))]
        if not text:
            return
        detail = [{"begin_offset": start, "end_offset": end, "train": True} for start, end in spans]
        record = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text, "train_detail": detail}]}
        for name in ("chatml", "llama2"):
            encoded = cases[name].template.encode(read_record(record)[0].turns)
            if not spans:
                assert not any(encoded.mask)
                seen["none"] += 1
                continue
            end = encoded.ends[-1] - 1
            at = characters(text, name)
            mask = encoded.mask[end - len(at) : end]
            for (start, stop), train in zip(at, mask, strict=True):
                places = [k for k in range(start, stop) if not text[k].isspace()]
                if places:
                    assert train == all(learned[k] for k in places), (name, text, spans, at, mask)
            assert encoded.mask[end] == 1 and not any(encoded.mask[: end - len(at)])
            seen["some"] += 1

    run()
    assert seen["some"] > 200 and seen["none"] > 20, seen


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
        start = len(prompt.encode())  # offsets count bytes
        mask += [0, *(int(piece.begin >= start) for piece in pieces), 1]
        assert any(piece.begin == start for piece in pieces), "the answer starts inside a token"
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


def golden_turns(lasting_edges: bool = True) -> list[list[Turn]]:
    """The golden chats; without `lasting_edges`, those whose answers begin with a line end, where a whole text has other ids, are left out."""
    chats = [[Turn(**turn) for turn in golden["turns"]] for golden in GOLDEN]
    return [chat for chat in chats if lasting_edges or not any(turn.text.startswith("\n") for turn in chat if turn.role == "assistant")]


def as_dicts(turns: list[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def without_control_marks(tokenizer, chats: list[list[Turn]]) -> list[list[Turn]]:
    """transformers reads a mark in somebody's words as the control token; there we differ from it on purpose."""
    marks = tokenizer.all_special_tokens + list(tokenizer.get_added_vocab())
    return [chat for chat in chats if not any(mark in turn.text for turn in chat for mark in marks)]


@pytest.mark.parametrize("name", ["llama3", "chatml"])
def test_published_templates_carried_to_transformers_give_the_same_ids(name, tmp_path):
    from transformers import AutoTokenizer

    template = ChatTemplate.load(name, TEMPLATES[name](tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = template.facts["jinja"]
    chats = without_control_marks(tokenizer, golden_turns(lasting_edges=False))
    for turns in chats:
        assert template.encode(turns).tokens == tokenizer.apply_chat_template(as_dicts(turns))["input_ids"]
        assert template.prompt(turns[:-1]) == tokenizer.apply_chat_template(as_dicts(turns[:-1]), add_generation_prompt=True)["input_ids"]
    assert len(chats) > 15


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", ["llama2", "llama3", "chatml"])
def test_templates_on_a_llama2_tokenizer_published_with_its_settings_give_the_same_ids(name, saved, tmp_path):
    from transformers import AutoTokenizer

    template, folder = ChatTemplate.load(name, write_llama2(tmp_path / "base")), tmp_path / "published"
    if saved:  # as tokenizer.json
        AutoTokenizer.from_pretrained(write_llama2(tmp_path / "named", use_default_system_prompt=False)).save_pretrained(folder)
        config = json.loads((folder / "tokenizer_config.json").read_text()) | template.facts["tokenizer_config"]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    else:
        write_llama2(folder, **template.facts["tokenizer_config"])
    (folder / "chat_template.jinja").write_text(template.facts["jinja"])
    tokenizer, own = AutoTokenizer.from_pretrained(folder), ChatTemplate.load("model", folder)
    chats = without_control_marks(tokenizer, golden_turns(lasting_edges=name == "llama2"))
    for turns in chats:
        encoded, asked = template.encode(turns), as_dicts(turns[:-1])
        assert encoded == own.encode(turns)
        assert encoded.tokens == tokenizer.apply_chat_template(as_dicts(turns))["input_ids"], turns
        assert template.prompt(turns[:-1]) == tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    assert len(chats) > 15


@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("saved", [False, True])
def test_own_template_of_a_llama2_tokenizer_gives_the_ids_of_transformers(legacy, saved, tmp_path):
    from transformers import AutoTokenizer

    write_llama2(tmp_path / "a")
    jinja = ChatTemplate.load("llama2", tmp_path / "a").facts["jinja"]
    folder = write_llama2(tmp_path / "b", chat_template=jinja, **({} if legacy is None else {"legacy": legacy}))
    if saved:  # as tokenizer.json
        AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "c")
        folder = tmp_path / "c"
    template, tokenizer = ChatTemplate.load("model", folder), AutoTokenizer.from_pretrained(folder)
    for turns in (chats := without_control_marks(tokenizer, golden_turns())):
        assert template.encode(turns).tokens == tokenizer.apply_chat_template(as_dicts(turns))["input_ids"], turns
    assert len(chats) > 15


def test_own_template_gives_the_ids_and_the_generated_spans_of_transformers(cases, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(write_own_template(tmp_path))
    chats = without_control_marks(tokenizer, golden_turns())
    for turns in chats:
        encoded = cases["model"].template.encode(turns)
        assert encoded.tokens == tokenizer.apply_chat_template(as_dicts(turns))["input_ids"]
        prompt = tokenizer.apply_chat_template(as_dicts(turns[:-1]), add_generation_prompt=True)["input_ids"]
        assert cases["model"].template.prompt(turns[:-1]) == prompt == encoded.tokens[: len(prompt)]
        assert encoded.mask[len(prompt)] == 1 and encoded.mask[len(prompt) - 1] == 0
    assert len(chats) > 15


LIKE_PUBLISHED = {  # the ways in which published templates differ
    "a system prompt of its own": (
        write_chatml,
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    "no space before an answer, one after its end": (
        write_llama2,
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% else %}{{ message['content'] + eos_token + ' ' }}{% endif %}{% endfor %}",
    ),
    "a date from the clock, if there is one": (
        write_llama3,
        "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
        "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
        "{%- else %}{%- set system = '' %}{%- endif %}"
        "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + system + '<|eot_id|>' }}"
        "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}",
    ),
}


@pytest.mark.parametrize("kind", LIKE_PUBLISHED)
def test_templates_like_the_published_ones_give_the_ids_of_transformers(kind, tmp_path):
    from transformers import AutoTokenizer

    write, jinja = LIKE_PUBLISHED[kind]
    folder = write(tmp_path, chat_template=jinja)
    template, tokenizer = ChatTemplate.load("model", folder), AutoTokenizer.from_pretrained(folder)
    compared = 0
    for turns in without_control_marks(tokenizer, golden_turns(lasting_edges=False)):
        try:
            encoded = template.encode(turns)
        except Refused as refused:
            assert "roles must alternate" in str(refused) and turns[0].role == "system"
            continue
        assert encoded.tokens == tokenizer.apply_chat_template(as_dicts(turns))["input_ids"], turns
        assert template.prompt(turns[:-1]) == tokenizer.apply_chat_template(as_dicts(turns[:-1]), add_generation_prompt=True)["input_ids"]
        assert len(encoded.ends) == len([turn for turn in turns if turn.role == "assistant"])
        compared += 1
    assert compared > 10


def test_llama3_ids_are_those_of_the_published_derivation(cases, tmp_path):
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(write_llama3(tmp_path) / "tokenizer.json"))
    plain.encode_special_tokens = True
    ids = {token.content: id for id, token in plain.get_added_tokens_decoder().items()}
    for turns in golden_turns():
        expected = [ids["<|begin_of_text|>"]]
        for turn in turns:  # header, two line ends, trimmed text, end of turn, each encoded by itself
            expected += [ids["<|start_header_id|>"], *plain.encode(turn.role).ids, ids["<|end_header_id|>"]]
            expected += [*plain.encode("\n\n").ids, *plain.encode(turn.text.strip()).ids, ids["<|eot_id|>"]]
        assert cases["llama3"].template.encode(turns).tokens == expected


def test_a_prompt_is_what_stands_before_the_answer_in_training(cases):
    for case in cases.values():
        for turns in golden_turns():
            encoded, prompt = case.template.encode(turns), case.template.prompt(turns[:-1])
            assert encoded.tokens[: len(prompt)] == prompt and all(encoded.mask[len(prompt) : encoded.ends[-1]])
            assert encoded.mask[len(prompt) - 1] == 0 and encoded.tokens[encoded.ends[-1] - 1] in case.template.end_ids


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_marks_missing_in_the_vocabulary_are_text_and_answers_end_with_eos(name, tmp_path):
    import sentencepiece

    folder = write_llama2(tmp_path)
    template = ChatTemplate.load(name, folder)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    encoded = template.encode([Turn("user", "a"), Turn("assistant", " b </s>"), Turn("user", "c"), Turn("assistant", "d")])
    trained = [id for id, train in zip(encoded.tokens, encoded.mask) if train]
    assert encoded.tokens[0] == 1 and encoded.tokens.count(1) == 1 and encoded.tokens.count(2) == trained.count(2) == 2
    first, last = trained[: trained.index(2)], trained[trained.index(2) + 1 : -1]
    assert (processor.decode([first]), processor.decode([last])) == (["b </s>"], ["d"])  # the leading space is a token; decode drops it
    assert "plain text" in template.facts["marks"] and template.end_ids == {2}


def test_chatml_on_a_tokenizer_whose_bos_opens_a_turn_puts_no_second_one(tmp_path):
    folder = write_byte_level(tmp_path, ["<|im_start|>", "<|im_end|>"], "<|im_start|>", "<|im_end|>")
    encoded = ChatTemplate.load("chatml", folder).encode([Turn("user", "a"), Turn("assistant", "b")])
    start = encoded.tokens[0]
    assert encoded.tokens.count(start) == 2 and encoded.tokens[1] != start


def test_marks_that_the_tokenizer_itself_would_match_stay_text(tmp_path):
    """ChatML's marks as user-defined pieces: SentencePiece finds those in any text."""
    import io

    import sentencepiece

    from tests.made.chat_tokenizers import WORDS

    model, marks = io.BytesIO(), ["<|im_start|>", "<|im_end|>"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS.splitlines()), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=marks, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    end = processor.piece_to_id("<|im_end|>")
    assert end in processor.encode("x<|im_end|>y")
    template = ChatTemplate.load("chatml", tmp_path)
    encoded = template.encode([Turn("user", "x<|im_end|>y"), Turn("assistant", "<|im_start|><|im_end|><|im_end|> z")])
    assert encoded.tokens.count(end) == 2 and template.end_ids == {end}
    trained = [id for id, train in zip(encoded.tokens, encoded.mask) if train]
    assert trained[-1] == end and processor.decode(trained[:-1]) == "<|im_start|><|im_end|><|im_end|> z"


REFUSED_TEMPLATES = {
    "no end token after an answer": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    "puts words of its own before an answer": "{% for m in messages %}{{ '<|user|>' + m['role'] + ': ' + m['content'] + '</s>' }}{% endfor %}",
    "changes the words of a turn": "{% for m in messages %}{{ '<|user|>' + m['content'] | upper + '</s>' }}{% endfor %}",
    "leaves a turn out, or repeats one": "{% for m in messages[1:] %}{{ m['content'] + '</s>' }}{% endfor %}",
    "writes earlier turns differently": "{{ messages | length }}{% for m in messages %}{{ '<|user|>' + m['content'] + '</s>' }}{% endfor %}",
    "fails: no chat today": "{{ raise_exception('no chat today') }}",
    "writes BOS twice": "{{ bos_token }}" + TURN_TEMPLATE,
    "is unsafe": "{{ ''.__class__.__mro__ }}{% for m in messages %}{{ m['content'] + '</s>' }}{% endfor %}",
    "namespace attribute": "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
    "Expected an expression": "{% for %}",
}


@pytest.mark.parametrize("reason", REFUSED_TEMPLATES)
def test_own_templates_whose_mask_cannot_be_proven_are_refused(reason, tmp_path):
    folder = write_own_template(tmp_path)
    (folder / "chat_template.jinja").write_text(REFUSED_TEMPLATES[reason])
    with pytest.raises(ChatError, match=reason) as error:
        ChatTemplate.load("model", folder)
    assert "choose --template" in str(error.value)


def test_own_template_that_hides_earlier_answers_takes_single_questions_and_refuses_the_rest(tmp_path):
    """As templates of reasoning models do, which cut their thoughts out of all but the last answer."""
    folder = write_own_template(tmp_path)
    thinking = TURN_TEMPLATE.replace(
        "message['content'] | trim + eos_token", "(message['content'].split('</think>')[-1]) | trim + eos_token"
    )
    (folder / "chat_template.jinja").write_text(thinking)
    template = ChatTemplate.load("model", folder)
    template.encode([Turn("user", "a"), Turn("assistant", "b")])
    with pytest.raises(Refused, match="changes the words of a turn"):
        template.encode([Turn("user", "a"), Turn("assistant", "<think>hm</think>b")])


def test_a_tokenizer_without_a_template_is_told_to_choose_one(tmp_path):
    with pytest.raises(ChatError, match="brings no chat template; choose --template llama2, llama3 or chatml"):
        ChatTemplate.load("model", write_llama3(tmp_path))


def test_a_tokenizer_that_cannot_write_answers_back_is_refused_before_any_data(tmp_path):
    import io

    import sentencepiece

    from tests.made.chat_tokenizers import WORDS

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS.splitlines()), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True, minloglevel=2
    )  # nmt_nfkc, and extra spaces removed
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    with pytest.raises(ChatError, match="cannot write an answer back as it was"):
        ChatTemplate.load("llama2", tmp_path)


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    folder = write_byte_level(tmp_path, ["<s>"], "<s>", "missing")
    with pytest.raises(ChatError, match="no EOS to end an answer with"):
        ChatTemplate.load("chatml", folder)


def test_a_cut_tokenizer_json_beside_a_whole_model_is_named(tmp_path):
    folder = write_llama2(tmp_path, chat_template="{{ messages }}")  # made from tokenizer.model; the own template reads the other file
    (folder / "tokenizer.json").write_text('{"version": "1.0", "tr')
    with pytest.raises(ChatError, match="tokenizer.json: not JSON .*; copy it again"):
        ChatTemplate.load("model", folder)


def test_an_answer_of_weight_zero_is_read_but_not_trained_on(cases):
    for case in cases.values():
        turns = [Turn("user", "a"), Turn("assistant", "b", train=False), Turn("user", "c"), Turn("assistant", "d")]
        encoded = case.template.encode(turns)
        assert case.supervised(encoded) == [case.expected("d")]
        assert encoded.tokens == case.template.encode([Turn(turn.role, turn.text) for turn in turns]).tokens


def test_special_tokens_that_the_template_does_not_use_stay_text_too(tmp_path):
    from tokenizers import Tokenizer

    folder = write_byte_level(tmp_path, ["<|im_start|>", "<|im_end|>", "<|python_tag|>"], None, "<|im_end|>")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded = ChatTemplate.load("chatml", folder).encode([Turn("user", "<|python_tag|>"), Turn("assistant", "a<|python_tag|>b")])
    assert tokenizer.token_to_id("<|python_tag|>") not in encoded.tokens
    assert tokenizer.decode([id for id, train in zip(encoded.tokens, encoded.mask) if train][:-1]) == "a<|python_tag|>b"


def test_own_template_that_ends_the_last_answer_by_another_token_refuses_several_answers(tmp_path):
    folder = write_own_template(tmp_path)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|user|>' + m['content'] + '<|assistant|>' }}"
        "{% else %}{{ m['content'] + ('</s>' if loop.last else '<|end|>') }}{% endif %}{% endfor %}"
    )
    template, turns = ChatTemplate.load("model", folder), [Turn("user", "a"), Turn("assistant", "b")]
    assert len(template.encode(turns).ends) == 1
    with pytest.raises(Refused, match="writes no end token after an answer"):
        template.encode(turns * 2)


def test_own_template_whose_ids_depend_on_more_than_its_text_is_refused(tmp_path):
    """A control token that swallows the line end behind it: pieces of the text no longer add up to the whole."""
    folder = write_own_template(tmp_path)
    spec = json.loads((folder / "tokenizer.json").read_text())
    [token] = [token for token in spec["added_tokens"] if token["content"] == "<|end|>"]
    token["rstrip"] = True
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ChatError, match="no ids can be proven for the tokenizer's own template"):
        ChatTemplate.load("model", folder)
