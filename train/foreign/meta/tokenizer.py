"""A SentencePiece BPE model, as LLaMA-2's, → tokenizer.json whose ids are SentencePiece's own.

transformers 5 makes a tokenizer from tokenizer.model alone, but orders merges by id and puts no blank before a text that
begins with one; both change ids (`a  b`, ` a`). So tokenizer.json is written here: merges by score, always a blank first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from train.foreign.meta.tensors import MetaFolderError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

# blanks at both ends and between, digits, bytes, capitals, an accent
PROBES = ("the mass of 17 stars", "  two  blanks   three ", " \n\ttab α 𝒵 0.5", "$z \\approx 3$, É e\u0301", "ﬁ Ⅳ ½ ａ", "")


def tokenizer_json(path: Path, pieces: SentencePieceProcessor) -> str:
    """The text of tokenizer.json; <s> goes before every text, as in Meta's code.

    Raises:
        MetaFolderError: a model that treats text in ways LLaMA-2's does not (normalisation, another algorithm).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    count = pieces.GetPieceSize()
    vocab = {pieces.IdToPiece(i): i for i in range(count)}
    special = [pieces.IdToPiece(i) for i in range(count) if pieces.IsControl(i) or pieces.IsUnknown(i)]
    bpe = models.BPE(
        vocab=vocab, merges=_merges(pieces), unk_token=pieces.IdToPiece(pieces.unk_id()), fuse_unk=True, byte_fallback=True
    )  # fmt: skip
    made = Tokenizer(bpe)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    bos = pieces.IdToPiece(pieces.bos_id())
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, pieces.bos_id())]
    )
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    for text in PROBES:
        if made.encode(text).ids != [pieces.bos_id(), *pieces.EncodeAsIds(text)]:
            raise MetaFolderError(
                f"the tokenizer.model splits {text!r} as no LLaMA-2 tokenizer does; give the one the model was trained with"
            )
    return made.to_str(pretty=True)


def _merges(pieces: SentencePieceProcessor) -> list[tuple[str, str]]:
    """Every way a piece falls into two others, best score first: the order in which SentencePiece joins."""
    plain = {
        pieces.IdToPiece(i): pieces.GetScore(i)
        for i in range(pieces.GetPieceSize())
        if not (pieces.IsControl(i) or pieces.IsUnknown(i) or pieces.IsByte(i))
    }
    ways = [
        (-score, i, len(left), left, whole[len(left) :])
        for i, (whole, score) in enumerate(plain.items())
        for left in (whole[:n] for n in range(1, len(whole)))
        if left in plain and whole[len(left) :] in plain
    ]
    return [(left, right) for _, _, _, left, right in sorted(ways)]
