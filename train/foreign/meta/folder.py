"""Meta's LLaMA-2 folders (params.json, consolidated.00.pth …, tokenizer.model) → a Hugging Face folder, tensor by tensor."""

from __future__ import annotations

import json
import math
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from train.foreign.meta.tensors import MetaFolderError, Params, read_params, tensors_of
from train.foreign.meta.tokenizer import tokenizer_json
from train.foreign.torch_save.file import check_place
from train.model_files.companions import companion_files, write_companions
from train.model_files.dtypes import DType, cast, is_finite
from train.model_files.folder import INDEX, index_text, plan_files
from train.model_files.stream import Tensor
from train.model_files.writer import Writer
from train.world.places import sync


def convert(
    folder: Path,
    out: Path,
    dtype: DType | None,
    tokenizer: Path | None,
    positions: int = 4096,
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[int, int]:
    """Publish a Hugging Face folder atomically; returns (tensors, bytes of weights).

    Args:
        dtype: of the weights written (default: as stored). tokenizer: tokenizer.model (default: the folder's, or its parent's).
        positions: the context the model was trained with, 4096 for LLaMA-2. progress: called with bytes read.
    Raises:
        MetaFolderError, TorchFileError, ReadError: something missing, damaged or contradictory; nothing is left.
    """
    if out.exists():
        raise MetaFolderError(f"{out}: exists already; give another folder, or remove it first")
    params = read_params(folder)
    tensors, stored = tensors_of(folder, params)
    dtype = dtype or stored
    rows = tensors["model.embed_tokens.weight"].shape[0]
    if params.vocab_size not in (-1, rows):
        raise MetaFolderError(f"{folder / 'params.json'}: vocab_size={params.vocab_size}, the embedding has {rows} rows; fetch both again")
    pieces, fast = _tokenizer(folder, tokenizer, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    tmp = out.parent / f".{out.name}.tmp-{secrets.token_hex(4)}"
    tmp.mkdir()
    try:
        nbytes = _write_weights(tensors, tmp, dtype, lambda n: progress(n * stored.itemsize))
        (tmp / "tokenizer.model").write_bytes(pieces)
        (tmp / "tokenizer.json").write_text(fast, encoding="utf-8")
        for name, value in _texts(params, rows, dtype, positions).items():
            (tmp / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        write_companions(companion_files(tmp, {}, dtype), tmp)
        for path in tmp.iterdir():
            sync(path)
        sync(tmp)
        tmp.rename(out)
        sync(out.parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return len(tensors), nbytes


def _write_weights(tensors: dict[str, Tensor], tmp: Path, dtype: DType, progress: Callable[[int], None]) -> int:
    numels = {n: math.prod(t.shape) for n, t in tensors.items()}
    files = plan_files(numels, dtype.itemsize, 1)
    for file in files:
        writer = Writer(tmp / file.name, {n: (dtype, tensors[n].shape) for n in file.tensors})
        for name in file.tensors:
            writer.stream(name, (_finite(p, tensors[name].dtype, dtype, name) for p in tensors[name].parts()))
            progress(numels[name])
        writer.close()
    total = sum(numels.values()) * dtype.itemsize
    (tmp / INDEX).write_text(index_text({f.name: f.tensors for f in files}, total))
    return total


def _finite(piece: np.ndarray, stored: DType, dtype: DType, name: str) -> np.ndarray:
    piece = cast(piece, stored, dtype)
    if not is_finite(piece, dtype):
        raise MetaFolderError(f"{name}: holds values that are not finite in {dtype}; take --dtype bf16 or fp32, or fetch the files again")
    return piece


def _tokenizer(folder: Path, given: Path | None, rows: int) -> tuple[bytes, str]:
    """The SentencePiece model, whose pieces must be the embedding's rows, and the tokenizer.json made of it."""
    path = given or next(
        (p for p in (folder / "tokenizer.model", folder.parent / "tokenizer.model") if p.is_file()), folder / "tokenizer.model"
    )
    if not path.is_file():
        raise MetaFolderError(
            f"{path}: missing; Meta ships tokenizer.model beside the models' folders, copy it or give it with --tokenizer"
        )
    check_place(path, path.parent)
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError:
        raise MetaFolderError(f"{path}: not a SentencePiece model, as LLaMA-2's is; fetch it again") from None
    if pieces.GetPieceSize() != rows or (pieces.bos_id(), pieces.eos_id()) != (1, 2):
        raise MetaFolderError(
            f"{path}: has {pieces.GetPieceSize()} pieces, <s> {pieces.bos_id()}, </s> {pieces.eos_id()}; the model has {rows} rows and wants 1 and 2:"
            " give the tokenizer it was trained with"
        )
    return pieces.serialized_model_proto(), tokenizer_json(path, pieces)


def _texts(params: Params, rows: int, dtype: DType, positions: int) -> dict[str, dict]:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": params.dim, "intermediate_size": params.hidden,
        "num_hidden_layers": params.layers, "num_attention_heads": params.heads, "num_key_value_heads": params.kv_heads,
        "rms_norm_eps": params.norm_eps, "rope_theta": params.rope_theta, "max_position_embeddings": positions, "vocab_size": rows,
        "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        "dtype": dtype.name,
    }  # fmt: skip
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "clean_up_tokenization_spaces": False, "model_max_length": positions,
    }  # fmt: skip
    return {"config.json": config, "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2}, "tokenizer_config.json": tokenizer}
