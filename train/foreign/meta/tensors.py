"""Meta's LLaMA-2 files (params.json, consolidated.00.pth …) → tensors by Hugging Face names, streamed from byte ranges.

Meta cuts a model over its files: projections into heads or hidden units (wq wk wv w1 w3 output) by rows, those back (wo w2) by
columns, the input embedding by columns (LLaMA-2) or rows, norms are whole in every file. Meta rotates neighbouring pairs
(2i, 2i + 1) of a head's dimensions, transformers pairs (i, i + half): so the rows of q and k are reordered within each head.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.foreign.torch_save.file import StoredTensor, read_torch_file
from train.model_files.dtypes import DType
from train.model_files.stream import CHUNK_BYTES, RangeReader, Tensor

_TOP = {"tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
_LAYER = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
_FREQUENCIES = re.compile(r"(layers\.\d+\.attention\.inner_attention\.)?rope\.freqs")  # computed from rope_theta
_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_KNOWN = {"dim", "multiple_of", "n_heads", "n_kv_heads", "n_layers", "norm_eps", "vocab_size", "ffn_dim_multiplier", "rope_theta",
          "max_seq_len", "max_batch_size"}  # fmt: skip


class MetaFolderError(ValueError):
    """A Meta folder that is incomplete, contradictory, or of another model; nothing was made."""


@dataclass(frozen=True)
class Params:
    """params.json, checked."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int  # of the feed-forward
    norm_eps: float
    rope_theta: float
    vocab_size: int  # -1: the tokenizer's


def read_params(folder: Path) -> Params:
    """params.json.

    Raises:
        MetaFolderError: missing, not understood, or of a model with other parts.
    """
    path = folder / "params.json"
    if not path.is_file() or path.stat().st_size > 1 << 20:
        raise MetaFolderError(f"{path}: missing or no such small JSON; it comes with Meta's consolidated.*.pth, copy it beside them")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(set(raw) - _KNOWN)
    except (ValueError, TypeError, RecursionError):
        raise MetaFolderError(f"{path}: not a JSON object; fetch it again") from None
    if unknown:
        raise MetaFolderError(f"{path}: {unknown[0]} is nothing LLaMA-2 has; take that model's Hugging Face folder as published")
    numbers = {key: raw.get(key, default) for key, default in _DEFAULTS.items()}
    for key, value in numbers.items():
        if (
            type(value) not in (int, float)
            or (key in _WHOLE and type(value) is not int)
            or (value <= 0 and (key, value) != ("vocab_size", -1))
        ):
            raise MetaFolderError(f"{path}: {key}={str(value)[:40]!r} is not a number a model can have; fetch the file again")
    dim, heads, kv_heads = numbers["dim"], numbers["n_heads"], raw.get("n_kv_heads") or numbers["n_heads"]
    if type(kv_heads) is not int or kv_heads < 1 or heads % kv_heads or dim % heads or dim // heads % 2:
        raise MetaFolderError(f"{path}: dim {dim}, n_heads {heads} and n_kv_heads {str(kv_heads)[:40]} do not divide; fetch the file again")
    # Meta's feed-forward: 2/3 of 4 dim, times a factor, up to a multiple
    hidden = int(int(2 * (4 * dim) / 3) * numbers["ffn_dim_multiplier"])
    hidden = -(-hidden // numbers["multiple_of"]) * numbers["multiple_of"]
    return Params(
        dim, numbers["n_layers"], heads, kv_heads, hidden, float(numbers["norm_eps"]), float(numbers["rope_theta"]), numbers["vocab_size"]
    )


_DEFAULTS = {"dim": None, "n_heads": None, "n_layers": None, "multiple_of": 256, "norm_eps": 1e-5, "ffn_dim_multiplier": 1.0, "rope_theta": 10000.0,
             "vocab_size": -1}  # fmt: skip
_WHOLE = ("dim", "n_heads", "n_layers", "multiple_of", "vocab_size")


def tensors_of(folder: Path, params: Params) -> tuple[dict[str, Tensor], DType]:
    """Every tensor by its Hugging Face name, streamed from byte ranges, and the dtype they are stored in.

    Raises:
        MetaFolderError, TorchFileError: files missing, damaged, or not of params.json's model; before anything is read.
    """
    files = _files(folder)
    parts = [_read(path, folder) for path in files]
    first = parts[0]
    slices = len(files)
    if (wq := first.get("layers.0.attention.wq.weight")) is not None and len(wq.shape) == 2 and wq.shape[0]:
        cut = params.dim // wq.shape[0]
        if cut > slices:
            raise MetaFolderError(
                f"{folder / f'consolidated.{slices:02d}.pth'}: missing; the model is cut into {cut} files, {slices} are here: fetch the others"
            )
    for what in ("heads", "kv_heads", "hidden"):
        if getattr(params, what) % slices:
            raise MetaFolderError(
                f"{folder}: {getattr(params, what)} {what} do not divide over {slices} files; files of two models are mixed"
            )
    for path, tensors in zip(files, parts, strict=True):
        if odd := sorted(set(tensors) ^ set(first)):
            raise MetaFolderError(
                f"{path}: {odd[0]} is not in it and in {files[0].name} alike; files of two models are mixed, fetch them again"
            )
        if len({t.dtype for t in tensors.values()} | {t.dtype for t in first.values()}) != 1:
            raise MetaFolderError(f"{path}: holds several dtypes, or another than {files[0].name}; files of two models are mixed")
    reader, found = RangeReader(), {}
    dtype = next(iter(first.values())).dtype
    if not dtype.is_floating_point:
        raise MetaFolderError(f"{files[0]}: holds {dtype}; quantized weights are not converted, fetch the original ones")
    vocab = sum(p["tok_embeddings.weight"].shape[0] for p in parts) if _by_rows(first, params, slices) else None
    for name, (renamed, kind) in _plan(params).items():
        if name not in first:
            raise MetaFolderError(f"{files[0]}: {name} is missing; params.json wants {params.layers} layers: fetch both again")
        shape = _shape(name, kind, params, vocab or first["tok_embeddings.weight"].shape[0])
        joined = "rows" if name == "tok_embeddings.weight" and vocab else kind
        pieces = [p[name] for p in parts]
        for path, piece in zip(files, pieces, strict=True):
            want = _cut(shape, joined, slices)
            if piece.shape != want:
                raise MetaFolderError(
                    f"{path}: {name} is {list(piece.shape)}, params.json and {slices} files want {list(want)}; fetch both again"
                )
        if joined == "whole":
            _same(reader, pieces, name)
        found[renamed] = Tensor(shape, dtype, functools.partial(_STREAMS[joined], reader, pieces, params.dim // params.heads))
    if extra := sorted(set(first) - set(_plan(params))):
        raise MetaFolderError(f"{files[0]}: {extra[0]} is nothing params.json's model has; fetch both again")
    return found, dtype


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MetaFolderError(f"{folder}: no such folder; Meta's are like llama-2-7b/ with params.json and consolidated.00.pth")
    numbers = {int(m[1]): p for p in sorted(folder.iterdir()) if (m := _SHARD.fullmatch(p.name))}
    for n in range(max(numbers, default=0) + 1):
        if n not in numbers:
            raise MetaFolderError(f"{folder / f'consolidated.{n:02d}.pth'}: missing; fetch it again")
    return [numbers[n] for n in sorted(numbers)]


def _read(path: Path, folder: Path) -> dict[str, StoredTensor]:
    contents = read_torch_file(path, folder)
    if not isinstance(contents, dict) or not all(isinstance(k, str) and isinstance(v, StoredTensor) for k, v in contents.items()):
        raise MetaFolderError(f"{path}: not a table of tensors as Meta publishes it; fetch it again")
    return {name: tensor for name, tensor in contents.items() if not _FREQUENCIES.fullmatch(name)}


def _plan(params: Params) -> dict[str, tuple[str, str]]:
    """Meta's name -> (Hugging Face's, how the files' parts join)."""
    joins = {"attention.wo": "columns", "feed_forward.w2": "columns", "attention_norm": "whole", "ffn_norm": "whole"}
    joins |= {"attention.wq": "turned", "attention.wk": "turned"}
    plan = {"tok_embeddings.weight": (_TOP["tok_embeddings.weight"], "columns")}
    for i in range(params.layers):
        for name, renamed in _LAYER.items():
            plan[f"layers.{i}.{name}.weight"] = f"model.layers.{i}.{renamed}.weight", joins.get(name, "rows")
    plan["norm.weight"] = _TOP["norm.weight"], "whole"
    plan["output.weight"] = _TOP["output.weight"], "rows"
    return plan


def _by_rows(first: dict[str, StoredTensor], params: Params, slices: int) -> bool:
    """Whether the input embedding is cut by rows: whole columns in each of several files."""
    embedding = first.get("tok_embeddings.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise MetaFolderError(
            f"{next(iter(first.values())).file if first else 'consolidated.00.pth'}: has no tok_embeddings.weight; fetch it again"
        )
    return slices > 1 and embedding.shape[1] == params.dim


def _shape(name: str, kind: str, params: Params, vocab: int) -> tuple[int, ...]:
    head = params.dim // params.heads
    last = name.removesuffix(".weight").rpartition(".")[2]
    rows = {"wq": params.dim, "wk": params.kv_heads * head, "wv": params.kv_heads * head, "wo": params.dim}
    rows |= {"w1": params.hidden, "w3": params.hidden, "w2": params.dim, "tok_embeddings": vocab, "output": vocab}
    if kind == "whole":
        return (params.dim,)
    return rows[last], params.hidden if last == "w2" else params.dim


def _cut(shape: tuple[int, ...], kind: str, slices: int) -> tuple[int, ...]:
    if kind == "whole":
        return shape
    return (shape[0], shape[1] // slices) if kind == "columns" else (shape[0] // slices, shape[1])


# -- streams: parts of the whole tensor, in order -------------------------------------------------------------------


def _whole(reader: RangeReader, pieces: list[StoredTensor], head: int) -> Iterator[np.ndarray]:
    return reader.parts([pieces[0].extent(0, pieces[0].numel)])


def _rows(reader: RangeReader, pieces: list[StoredTensor], head: int) -> Iterator[np.ndarray]:
    return reader.parts([p.extent(0, p.numel) for p in pieces])


def _columns(reader: RangeReader, pieces: list[StoredTensor], head: int) -> Iterator[np.ndarray]:
    rows, width, dtype = pieces[0].shape[0], sum(p.shape[1] for p in pieces), pieces[0].dtype
    at_once = max(1, CHUNK_BYTES // dtype.itemsize // width)
    blocks = [np.empty((at_once, p.shape[1]), dtype.array) for p in pieces]
    for first in range(0, rows, at_once):
        here = [block[: rows - first] for block in blocks]
        for piece, block in zip(pieces, here, strict=True):
            _read_rows(reader, piece, first, block)
        yield np.concatenate(here, axis=1).reshape(-1)


def _turned(reader: RangeReader, pieces: list[StoredTensor], head: int) -> Iterator[np.ndarray]:
    """Row i of half h of a head, in transformers' order, is Meta's row 2i + h."""
    block = np.empty((head, pieces[0].shape[1]), pieces[0].dtype.array)
    for piece in pieces:
        for first in range(0, piece.shape[0], head):
            _read_rows(reader, piece, first, block)
            yield block.reshape(head // 2, 2, -1).swapaxes(0, 1).copy().reshape(-1)


def _read_rows(reader: RangeReader, piece: StoredTensor, first: int, block: np.ndarray) -> None:
    """Fill a block (rows, columns) with a piece's rows from `first` on."""
    columns = piece.shape[1]
    reader.read_into([piece.extent(first * columns, (first + len(block)) * columns)], block)


_STREAMS = {"whole": _whole, "rows": _rows, "columns": _columns, "turned": _turned}


def _same(reader: RangeReader, pieces: list[StoredTensor], name: str) -> None:
    kept, other = (np.empty(pieces[0].numel, pieces[0].dtype.array) for _ in range(2))
    reader.read_into([pieces[0].extent(0, len(kept))], kept)
    for piece in pieces[1:]:
        reader.read_into([piece.extent(0, len(other))], other)
        if not np.array_equal(other, kept):
            raise MetaFolderError(
                f"{piece.file}: its {name} differs from {pieces[0].file.name}'s; files of two models are mixed, fetch them again"
            )
