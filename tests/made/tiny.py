"""Small real things: a two-layer Llama folder, batches packed by hand, a plain-torch reference."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from train.model_files import dtypes

VOCAB = 320


def tiny_config(**changes):
    from transformers import LlamaConfig

    values = dict(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        rope_theta=10000.0,
    )
    return LlamaConfig(**(values | changes))


def tiny_model(seed: int = 0, **changes):
    """A random LlamaForCausalLM in fp32, weights large enough that attention is not flat."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(tiny_config(**changes)).float()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.12)
            else:
                p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def save_tiny(folder: Path, seed: int = 0, **changes) -> Path:
    """A model folder as transformers saves it, with a tokenizer."""
    model = tiny_model(seed, **changes)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of VOCAB ids in tokenizer.json: <unk> <s> </s>, 256 bytes, some merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for ch in alphabet:
        vocab[ch] = len(vocab)
    for i in range(VOCAB - len(vocab)):
        vocab[f"<extra_{i}>"] = len(vocab)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )


def random_documents(rng: np.random.Generator, lengths: list[int]) -> list[np.ndarray]:
    return [rng.integers(3, VOCAB, size=n) for n in lengths]


def pack_by_hand(documents: list[np.ndarray], row_tokens: int, masks: list[np.ndarray] | None = None, sources: list[int] | None = None):
    """One PackedBatch of whole documents, padded to row_tokens; independent of train.data.packing."""
    from train.data.batch import PackedBatch

    tokens, labels, positions, source, edges = [], [], [], [], [0]
    for i, d in enumerate(documents):
        tokens += d.tolist()
        positions += range(len(d))
        targets = [int(t) if masks is None or masks[i][j + 1] else -100 for j, t in enumerate(d[1:])]
        labels += targets + [-100]
        source += [sources[i] if sources else 0] * len(d)
        edges.append(len(tokens))
    pad = row_tokens - len(tokens)
    assert pad >= 0, (row_tokens, len(tokens))
    if pad:
        tokens += [0] * pad
        labels += [-100] * pad
        positions += range(pad)
        source += [-1] * pad
        edges.append(row_tokens)
    return PackedBatch(
        tokens=torch.tensor([tokens]),
        labels=torch.tensor([labels]),
        position_ids=torch.tensor([positions]),
        cu_seqlens=torch.tensor(edges, dtype=torch.int32),
        max_seqlen=int(np.diff(edges).max()),
        source=torch.tensor(source, dtype=torch.int16),
        supervised=sum(t != -100 for t in labels),
    )


def reference_losses(model, documents: list[np.ndarray], masks: list[np.ndarray] | None = None) -> tuple[torch.Tensor, int]:
    """Sum of token losses and number of targets, document by document through transformers as published."""
    total, count = torch.zeros((), device=model.device), 0
    for i, d in enumerate(documents):
        if len(d) < 2:
            continue
        ids = torch.tensor(d, device=model.device)[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        keep = torch.tensor(np.ones(len(d) - 1, bool) if masks is None else masks[i][1:] != 0, device=model.device)
        total = total + losses[keep].sum()
        count += int(keep.sum())
    return total, count


def write_shards(
    folder: Path,
    model_folder: Path,
    documents: list[np.ndarray],
    source: str = "a",
    masks: list[np.ndarray] | None = None,
    shard_tokens: int = 4096,
) -> Path:
    """Real shards of given ids; document i has id `source-i`."""
    from data_tools.shards.fingerprint import tokenizer_fingerprint
    from data_tools.shards.writer import ShardWriter

    tokenizer = {"fingerprint": tokenizer_fingerprint(model_folder), "bos_id": 1, "eos_id": 2, "add_bos": True, "add_eos": True}
    writer = ShardWriter(folder, kind="chat" if masks else "corpus", vocab_size=VOCAB, tokenizer=tokenizer, shard_tokens=shard_tokens)
    for i, d in enumerate(documents):
        writer.add(f"{source}-{i}", source, d, masks[i] if masks else None)
    writer.finish(inputs=[], arguments={}, versions={})
    return folder


def write_recipe(folder: Path, **changes) -> Path:
    """A recipe file for the tiny model; `changes` replace top-level values, sections are merged one level deep."""
    import yaml

    recipe = {
        "name": "tiny",
        "runs": str(folder / "runs"),
        "steps": 4,
        "tokens_per_step": 256,
        "deepspeed": "ds_configs/cpu.json",
        "model": {"path": str(folder / "model"), "dtype": "fp32"},
        "data": {"sources": {"a": {"path": str(folder / "shards")}}, "seq_len": 64},
        "heldout": {"sources": {"a": {"path": str(folder / "heldout")}}},
        "optim": {"lr": 1e-3, "kernel": "torch"},
        "schedule": {"warmup_steps": 1},
        "checkpoint": {"every_steps": 2},
        "logging": {"tensorboard": False},
    }
    for key, value in changes.items():
        recipe[key] = {**recipe.get(key, {}), **value} if isinstance(value, dict) else value
    for key in [k for k, v in recipe.items() if v is None]:
        del recipe[key]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def ground(folder: Path, documents: int = 60, longest: int = 50) -> Path:
    """A folder with a tiny model, shards, held-out shards and a recipe."""
    rng = np.random.default_rng(1)
    save_tiny(folder / "model")
    write_shards(folder / "shards", folder / "model", random_documents(rng, rng.integers(2, longest, documents).tolist()))
    write_shards(folder / "heldout", folder / "model", random_documents(rng, rng.integers(2, longest, 9).tolist()))
    write_recipe(folder)
    return folder


def joined(parts: Iterable[np.ndarray], dtype: dtypes.DType) -> torch.Tensor:
    """The parts of a tensor as one 1-D torch tensor."""
    return dtypes.tensor(np.concatenate([np.empty(0, dtype.array), *(part.copy() for part in parts)]), dtype)
