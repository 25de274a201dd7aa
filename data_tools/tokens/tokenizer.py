"""Text → ids, exactly as the model's own tokenizer file says; fast only where proven equal.

tokenizer.model → sentencepiece (the reference where a folder has both); tokenizer.json → tokenizers. BOS and EOS are never added by
a backend: `with_marks` puts them on, once, by rule. Control tokens written as text (`</s>`, `<|im_end|>`) stay text.

    tokenizer = Tokenizer.load(Path("models/llama-2-7b"))
    tokenizer.encode("black holes")            # [4628, 26599]
    fast, verdict = tokenizer.fast_path(texts) # gigatoken, if it encodes these texts like the reference
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.shards.fingerprint import tokenizer_file, tokenizer_fingerprint
from data_tools.shards.format import ShardError
from data_tools.tokens.words import Flat, WordByWord, flatten, words_are_separable

# what every sample for the fast path also holds: runs of blanks, control characters, byte fallback, other scripts
HARD_TEXTS = [
    "",
    " ",
    "  two  three   spaces ",
    "\ttab\n\n\nlines\r\n",
    "\x00\x01\x7f",
    "日本語 한국어 العربية עברית",
    "🚀👩‍👩‍👧 e\u0301 \ufeff\u200b",
]
HARD_TEXTS += [
    "$\\frac{a}{b}$ ~10^{-3}\\,M_\\odot",
    "<s>a</s> <unk> <0x0A> ▁ ▁▁",
    "<|im_start|>user [INST] <|endoftext|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


class TokenizerError(ShardError):
    """A tokenizer folder that cannot be used; says what it holds and what it needs."""


@dataclass(frozen=True)
class Tokenizer:
    """Load with `Tokenizer.load`. control: marks that text must never turn into, by id."""

    file: Path
    backend: str  # library and version
    fingerprint: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    control: dict[str, int]
    _encode_flat: Callable[[Sequence[str], int], Flat]
    _decode: Callable[[list[int]], str]

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Raises TokenizerError."""
        try:
            file = tokenizer_file(folder)
        except ShardError as error:
            raise TokenizerError(str(error)) from None
        try:
            return (_load_sentencepiece if file.suffix == ".model" else _load_tokenizers)(file, _read_configs(Path(folder)))
        except (RuntimeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise TokenizerError(f"{file}: not a tokenizer file ({error}); copy it again from the model's folder") from error

    def encode(self, text: str) -> list[int]:
        return self.encode_flat([text], 1)[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of ids a text, on all cores."""
        tokens, lengths = self.encode_flat(texts, os.cpu_count() or 1)
        return np.split(tokens, np.cumsum(lengths)[:-1]) if len(texts) else []

    def encode_flat(self, texts: Sequence[str], threads: int) -> Flat:
        """Ids of all texts one after the other, and each text's number of ids."""
        if not texts:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        return self._encode_flat(texts, threads)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._decode([int(id) for id in ids])

    def rule(self, add_bos: bool = True, add_eos: bool = True) -> dict[str, Any]:
        """What a manifest keeps: the tokenizer and how documents were marked."""
        for name, id, wanted in (("BOS", self.bos_id, add_bos), ("EOS", self.eos_id, add_eos)):
            if wanted and id is None:
                flag = f"--no-{name.lower()}"
                raise TokenizerError(
                    f"{self.file}: has no {name} token; name one in tokenizer_config.json beside it, or prepare with {flag}"
                )
        return {"file": self.file.name, "fingerprint": self.fingerprint, "backend": self.backend} | {
            "bos_id": self.bos_id,
            "eos_id": self.eos_id,
            "add_bos": add_bos,
            "add_eos": add_eos,
        }

    def fast_path(self, sample: Sequence[str]) -> tuple["Tokenizer | None", str]:
        """gigatoken in place of the reference if it gives the same ids for every text of the sample; and the verdict in words."""
        try:
            import gigatoken

            fast = _load_gigatoken(self)
        except ImportError:
            return None, "gigatoken is not installed"
        except (ValueError, RuntimeError, AssertionError, NotImplementedError, KeyError) as error:
            return None, f"gigatoken {_version('gigatoken')} cannot load {self.file.name} ({error})"
        sample = [*sample, *HARD_TEXTS, *self.control, *(f"a {mark}b" for mark in self.control)]
        name = f"gigatoken {_version(gigatoken.__name__)}"
        if (difference := self.first_difference(fast, sample)) is not None:
            return None, f"{name} encodes {sample[difference][:80]!r} otherwise than {self.backend}"
        return fast, f"{name} gave the ids of {self.backend} for all of {len(sample)} texts"

    def first_difference(self, other: "Tokenizer", texts: Sequence[str]) -> int | None:
        """The first text that the other encodes otherwise, or None."""
        threads = os.cpu_count() or 1
        (ours, our_lengths), (theirs, their_lengths) = self.encode_flat(texts, threads), other.encode_flat(texts, threads)
        if np.array_equal(our_lengths, their_lengths) and np.array_equal(ours, theirs):
            return None
        ends = [(0, 0), *zip(np.cumsum(our_lengths), np.cumsum(their_lengths))]
        pairs = zip(ends, ends[1:])
        return next(k for k, ((a, c), (b, d)) in enumerate(pairs) if not np.array_equal(ours[a:b], theirs[c:d]))


def with_marks(tokens: np.ndarray, lengths: np.ndarray, bos_id: int | None, eos_id: int | None) -> Flat:
    """Put bos_id before and eos_id behind each text's ids (None: not). tokens: (sum of lengths,); lengths: (texts,)."""
    before, behind = int(bos_id is not None), int(eos_id is not None)
    marked_lengths = lengths + before + behind
    ends = np.cumsum(marked_lengths)
    marked = np.empty(int(marked_lengths.sum()), tokens.dtype)
    is_text = np.ones(len(marked), bool)
    if before:
        is_text[ends - marked_lengths] = False
        marked[ends - marked_lengths] = bos_id
    if behind:
        is_text[ends - 1] = False
        marked[ends - 1] = eos_id
    marked[is_text] = tokens
    return marked, marked_lengths


def _load_sentencepiece(file: Path, configs: dict[str, Any]) -> Tokenizer:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    added = _added_tokens(configs)
    marks = {processor.id_to_piece(id): id for id in range(processor.get_piece_size()) if processor.is_control(id)}
    marks |= {mark: id for mark, id in added.items() if id >= processor.get_piece_size()}
    if typed := [mark for mark in added if (id := processor.piece_to_id(mark)) != processor.unk_id() and not processor.is_control(id)]:
        # a user-defined piece is cut out of any text; a mark must not be
        processor = sentencepiece.SentencePieceProcessor(model_proto=_as_control(file.read_bytes(), typed))
        marks |= {mark: processor.piece_to_id(mark) for mark in typed}
    names = {id: mark for mark, id in added.items() if id >= processor.get_piece_size()}
    bos_id, eos_id = (
        id if id >= 0 else _named_id(configs, key, marks) for key, id in (("bos", processor.bos_id()), ("eos", processor.eos_id()))
    )
    return Tokenizer(
        file=file,
        backend=f"sentencepiece {_version('sentencepiece')}",
        fingerprint=tokenizer_fingerprint(file.parent),
        vocab_size=max([processor.get_piece_size(), *(id + 1 for id in names)]),
        bos_id=bos_id,
        eos_id=eos_id,
        control=marks,
        _encode_flat=WordByWord(processor) if words_are_separable(processor) else functools.partial(_encode_whole, processor),
        _decode=lambda ids: _decode_around(ids, names, processor.decode),
    )


def _encode_whole(processor: Any, texts: Sequence[str], threads: int) -> Flat:
    return flatten(processor.encode(list(texts), num_threads=threads))


def _load_tokenizers(file: Path, configs: dict[str, Any]) -> Tokenizer:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{file}: the tokenizers library cannot read it ({error}); copy it again from the model's folder") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a mark in the text is encoded as its letters
    marks = {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    marks |= {mark: id for mark, id in _added_tokens(configs).items() if tokenizer.token_to_id(mark) == id}

    def encode_flat(texts: Sequence[str], threads: int) -> Flat:
        return flatten([encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)])

    return Tokenizer(
        file=file,
        backend=f"tokenizers {_version('tokenizers')}",
        fingerprint=tokenizer_fingerprint(file.parent),
        vocab_size=max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        bos_id=_named_id(configs, "bos", tokenizer.get_vocab()),
        eos_id=_named_id(configs, "eos", tokenizer.get_vocab()),
        control=marks,
        _encode_flat=encode_flat,
        _decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
    )


def _load_gigatoken(reference: Tokenizer) -> Tokenizer:
    import gigatoken
    from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json

    data = reference.file.read_bytes()
    spec = json.loads(sentencepiece_to_tokenizer_json(data) if reference.file.suffix == ".model" else data)
    # left in, marks would be cut out of the text; what else is added (runs of blanks, say) stays
    spec["added_tokens"] = [token for token in spec.get("added_tokens", []) if token["content"] not in reference.control]
    spec["post_processor"] = None
    fast = gigatoken.Tokenizer.from_json(json.dumps(spec))

    def encode_flat(texts: Sequence[str], threads: int) -> Flat:
        layout = (fast if threads > 1 else fast.backend).encode_batch(list(texts), parallel=threads > 1).layout
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets).astype(np.int64)

    return replace(reference, backend=f"gigatoken {_version('gigatoken')}", _encode_flat=encode_flat)


def _decode_around(ids: list[int], names: dict[int, str], decode: Callable[[list[int]], str]) -> str:
    """Decode what the model file knows; ids added beside it by their names."""
    if not any(id in names for id in ids):
        return decode(ids)
    parts, run = [], []
    for id in [*ids, -1]:
        if id == -1 or id in names:
            parts += [decode(run) if run else "", names.get(id, "")]
            run = []
        else:
            run.append(id)
    return "".join(parts)


def _as_control(model: bytes, marks: list[str]) -> bytes:
    """The SentencePiece model with these user-defined pieces as control pieces, which no text matches."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for piece in proto.pieces:
        if piece.piece in marks:
            piece.type = sentencepiece_model_pb2.ModelProto.SentencePiece.CONTROL
    return proto.SerializeToString()


def _read_configs(folder: Path) -> dict[str, Any]:
    """The JSON files of a Hugging Face folder that name special tokens; a missing one is empty."""
    names = ("tokenizer_config", "special_tokens_map", "added_tokens", "config")
    return {name: json.loads(path.read_text()) if (path := folder / f"{name}.json").is_file() else {} for name in names}


def _added_tokens(configs: dict[str, Any]) -> dict[str, int]:
    """Special tokens that stand beside the model file: content → id."""
    listed = configs["tokenizer_config"].get("added_tokens_decoder", {})
    special = {token["content"]: int(id) for id, token in listed.items() if token.get("special")}
    plain = {token["content"] for token in listed.values()} - special.keys()
    return {mark: int(id) for mark, id in configs["added_tokens"].items() if mark not in plain} | special


def _named_id(configs: dict[str, Any], key: str, ids: dict[str, int]) -> int | None:
    """The id of the BOS or EOS token that the folder's configuration names."""
    for name in ("tokenizer_config", "special_tokens_map"):
        token = configs[name].get(f"{key}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if content in ids:
            return ids[content]
    id = configs["config"].get(f"{key}_token_id")
    return id[0] if isinstance(id, list) and id else id if isinstance(id, int) else None


@functools.cache
def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
