"""Everything that the pages' commands are given, made small: models, metadata and sources, texts, conversations."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import torch

from tests.made import chat_tokenizers, papers, tiny

PAPERS = 120
# what a run is cut down to: the recipe's own sources, prompts and paths stay
SMALL = {
    "tokens_per_step": "512", "micro_batch": "1", "data.seq_len": "256", "model.dtype": "fp32", "deepspeed": "ds_configs/cpu.json", "steps": "2",
    "schedule": "{warmup_steps: 0}", "model.max_start_loss": "null", "heldout.max_rows": "2", "heldout.every_steps": "0", "heldout.prompt_tokens": "2",
    "logging.tensorboard": "false",
}  # fmt: skip


def stand_ins(folder: Path) -> None:
    """Lay them where the pages say they lie."""
    for name in (
        "models/Llama-2-7b-hf",
        "models/Llama-2-70b-hf",
        "models/smollm2-135m",
        "Llama-2-7b-hf",
        "MODEL",
        "OTHER",
        "DIR",
        "meta-llama-2-7b-chat",
    ):
        _model(folder / name)
    _meta(folder / "llama" / "llama-2-7b")
    rows = [papers.record(n) for n in range(PAPERS)]
    papers.write_lines(folder / "arxiv-metadata-oai-snapshot.json", rows)
    members = {f"{row['id'][:4]}/{row['id']}.gz": gzip.compress(papers.paper(n)) for n, row in enumerate(rows)}
    (folder / "arXiv_src_0704_001.tar").write_bytes(papers.tar(members))
    (folder / "paper").mkdir()
    (folder / "paper" / "ms.tex").write_bytes(papers.paper(0))
    shutil.copytree(folder / "paper", folder / "FOLDER")
    _parquet(folder / "corpus" / "web" / "sample" / "10BT" / "000_00000.parquet")
    talks = [
        {"messages": [{"role": "user", "content": f"What is star {n}?"}, {"role": "assistant", "content": f"Star {n} is a bright one."}]}
        for n in range(1200)
    ]
    for name in (
        "answers",
        "questions/conversations",
        "GAIR/lima/train",
        "corpus/orca",
        "corpus/ultrachat",
        "HuggingFaceH4/ultrachat_200k:train_sft/train",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        papers.write_lines(folder / f"{name}.jsonl", talks)
    for split in ("train", "heldout"):  # as quickstart makes them
        texts = [json.dumps({"id": f"{split}-{n}", "text": papers.sentences((split, n), 4)}) for n in range(20)]
        papers.write_lines(folder / f"{split}.jsonl", texts)
    asked = [{"question": f"Which star is {n}?", "choices": ["Sirius", "Vega", "Mira", "Algol"], "answer": n % 4} for n in range(12)]
    for name in ("questions", "dev"):
        papers.write_lines(folder / f"{name}.jsonl", asked)
    papers.write_lines(folder / "abstracts.jsonl", rows[:24])
    (folder / "hostfile").write_text("node1 slots=8\nnode2 slots=8\n")
    shutil.copy(folder / "train.jsonl", folder / "papers.jsonl")


def _model(folder: Path) -> None:
    tiny.tiny_model(vocab_size=420, max_position_embeddings=4096).save_pretrained(folder)
    chat_tokenizers.write_llama2(folder, add_bos_token=True, add_eos_token=False)


def _parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True)
    texts = [papers.sentences(("web", n), 6) for n in range(60)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": [f"<urn:{n}>" for n in range(60)], "score": [3.0] * 60}), path)


def _meta(folder: Path) -> None:
    """A folder as Meta publishes LLaMA-2, by its own names."""
    folder.mkdir(parents=True)
    vocab, dim, heads = 420, 48, 4
    hidden = 128  # of 48: two thirds of 4 * 48, rounded up to 32
    params = {"dim": dim, "multiple_of": 32, "n_heads": heads, "n_layers": 2, "norm_eps": 1e-5, "vocab_size": -1}
    weights = {"tok_embeddings.weight": (vocab, dim), "norm.weight": (dim,), "output.weight": (vocab, dim)}
    for layer in range(2):
        at = f"layers.{layer}"
        weights |= {f"{at}.attention.w{part}.weight": (dim, dim) for part in "qkvo"}
        weights |= {f"{at}.feed_forward.w1.weight": (hidden, dim), f"{at}.feed_forward.w3.weight": (hidden, dim)}
        weights |= {f"{at}.feed_forward.w2.weight": (dim, hidden), f"{at}.attention_norm.weight": (dim,), f"{at}.ffn_norm.weight": (dim,)}
    torch.save({name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in weights.items()}, folder / "consolidated.00.pth")
    (folder / "params.json").write_text(json.dumps(params))
    chat_tokenizers.write_llama2(folder)
