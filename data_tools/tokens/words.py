"""SentencePiece's own ids, each word encoded once: the same ids four times as fast.

text → words, cut before each run of spaces → ids of each word, looked up or encoded by SentencePiece → joined

Exact where no piece has a space behind another character, as in LLaMA's models: BPE joins neighbours into pieces of the vocabulary,
so nothing is ever joined across such a cut, and each word comes out as it does within its text.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

Flat = tuple[np.ndarray, np.ndarray]  # uint32 ids of all texts one after the other; (texts,) int64 their lengths
SPACE = "\u2581"  # as which SentencePiece writes a space
MOST_WORDS = 2**20  # about 200 MB; then the table starts anew


def words_are_separable(processor: Any) -> bool:
    """Whether the model guarantees that a text is encoded as its words are."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())
    rule, trained = proto.normalizer_spec, proto.trainer_spec
    plain = rule.add_dummy_prefix and rule.escape_whitespaces and not rule.remove_extra_whitespaces and not rule.precompiled_charsmap
    bpe = trained.model_type == trained.BPE and trained.byte_fallback and not trained.treat_whitespace_as_suffix
    spaces_lead = not any(SPACE in piece.piece.lstrip(SPACE) for piece in proto.pieces)
    return bool(plain and bpe and spaces_lead and processor.piece_to_id(SPACE) != processor.unk_id())


class WordByWord:
    """encode(texts, threads) for a processor whose words are separable."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._spaced = re.compile(" +[^ ]*").findall
        self._start()

    def _start(self) -> None:
        # SentencePiece puts one space before a text, so a word is encoded without its own; a lone space at the end is a word, too
        self._ids: dict[str, bytes] = {"": np.array([self._processor.piece_to_id(SPACE)], np.uint32).tobytes()}

    def __call__(self, texts: Sequence[str], threads: int) -> Flat:
        if len(self._ids) > MOST_WORDS:
            self._start()
        words = [self._cut(text) for text in texts]
        new = list(set(chain.from_iterable(words)).difference(self._ids))
        ids, lengths = flatten(self._processor.encode(new, num_threads=threads))
        data, ends = ids.tobytes(), (4 * np.cumsum(lengths)).tolist()
        self._ids.update(zip(new, (data[start:end] for start, end in zip([0, *ends], ends))))
        look_up = self._ids.__getitem__
        encoded = [b"".join(map(look_up, each)) for each in words]
        sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.frombuffer(b"".join(encoded), np.uint32), sizes // 4

    def _cut(self, text: str) -> list[str]:
        """ "a  b" → ["a", " b"]: each word without the space that SentencePiece puts before it."""
        if not text:
            return []
        if SPACE in text:
            text = text.replace(SPACE, " ")  # the same to SentencePiece
        if "  " in text or text[0] == " " or text[-1] == " ":
            return [word[1:] for word in self._spaced(" " + text)]
        return text.split(" ")


def flatten(lists: list[list[int]]) -> Flat:
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return np.fromiter(chain.from_iterable(lists), np.uint32, int(lengths.sum())), lengths
