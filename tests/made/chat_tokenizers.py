"""Small real tokenizers for the chat tests: LLaMA-2's kind by SentencePiece, Llama-3's and ChatML's kind by tokenizers."""

import functools
import io
import json
from pathlib import Path

WORDS = """What is a blazar? A blazar is an active galaxy whose jet points at us. The flux of the source varies within hours.
Please explain the Hubble tension in two sentences. Local distance ladders give 73 km/s/Mpc, the cosmic microwave background 67.
List three telescopes: Hubble, Chandra, Gaia. I agree. The meaning of life is 42. user assistant system [INST] [/INST] <<SYS>>
Tell me about the redshift of galaxies, stars and planets. It was measured from spectra with an accuracy of 0.001."""

# a chat template as model authors write them: trims, names roles by control tokens, ends every turn with one
TURN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ '<|assistant|>\n' + message['content'] | trim + eos_token }}{% endgeneration %}"
    "{% else %}{{ '<|' + message['role'] + '|>\n' + message['content'] | trim + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@functools.cache
def sentencepiece_model() -> bytes:
    """Like LLaMA-2's: BPE, byte fallback, a space before each text, identity normalization, every space kept."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS.splitlines() * 3), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
        character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def write_llama2(folder: Path, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    if config:
        names = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(names | config))
    return folder


def write_byte_level(folder: Path, special: list[str], bos: str | None, eos: str, **config) -> Path:
    """Llama-3's kind: byte-level BPE behind its splitting rule, special tokens beside the vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(WORDS.splitlines(), trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(special)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | config))
    return folder


def write_llama3(folder: Path, **config) -> Path:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return write_byte_level(folder, special, "<|begin_of_text|>", "<|end_of_text|>", **config)


def write_chatml(folder: Path, **config) -> Path:
    """As Qwen and SmolLM2 have it: no BOS of its own."""
    return write_byte_level(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, "<|im_end|>", **config)


def write_own_template(folder: Path) -> Path:
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>"]
    return write_byte_level(folder, special, "<s>", "</s>", chat_template=TURN_TEMPLATE)
