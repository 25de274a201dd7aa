"""A folder → a model to evaluate or to talk to: a checkpoint of ours, an export, any Hugging Face folder of a causal language model.

folder → `check_folder` names what is missing or damaged → `load` model and tokenizer, nothing downloaded, unpickled or run from it
→ `Loaded`: token losses, next-token logits, mean hidden states and continuations of documents, each as if it stood alone
Documents are packed into one row through the trainer's own attention where its architecture is computed exactly so, else given one by one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.data.batch import PackedBatch
from train.data.packing import IGNORED
from train.evaluation import adapted
from train.model import attention
from train.model.support import require_supported
from train.model_files.adapter import is_adapter
from train.model_files.dtypes import OF_RECIPE, in_torch
from train.model_files.fetch import base_of_adapter
from train.model_files.folder import MANIFEST, ModelError, meant
from train.model_files.shapes import require_plain_head
from train.world.places import sha256

HEAD_TOKENS = 512  # whose logits exist at once
WEIGHTS = ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja")  # what decides about a model's answers


@dataclass(frozen=True)
class Loaded:
    """A model on this process's device.

    Documents are given as lists of token ids, none of them empty, and answered in the same order.
    """

    name: str
    model: Any
    tokenizer: Any
    packed: bool
    said: str  # how it is computed, in words
    row_tokens: int = 4096  # computed at once, where a document is not longer itself

    @classmethod
    def of(
        cls, folder: Path, name: str, device: torch.device | None, dtype: str = "auto", longest: int | None = None, row_tokens: int = 4096
    ) -> Loaded:
        """Load a checked folder. longest: tokens of the longest document, which decides whether some architectures can be packed.

        Raises:
            ModelError: it cannot be loaded.
        """
        model, tokenizer = load(folder, dtype, device=device)
        limit = positions_of(model.config)
        try:
            require_plain_head(model.config.to_dict(), folder / "config.json")
            require_supported(model.config, longest or limit or 2048, str(folder))
            backend, why = attention.choose_backend("auto", model.device, model.dtype)
            model.set_attn_implementation(attention.install(backend))
        except ModelError as error:
            return cls(name, model, tokenizer, False, f"one document at a time, by transformers alone ({error})")
        return cls(name, model, tokenizer, True, f"packed; attention: {backend} ({why})", row_tokens)

    @property
    def positions(self) -> int | None:
        """Tokens that it can look back on, itself included; None where its config sets no limit."""
        return positions_of(self.model.config)

    def ids(self, text: str, bos: str = "auto") -> list[int]:
        """A text's tokens. bos: `auto` as the tokenizer adds it; `always` put before where it does not; `never` taken away."""
        ids = list(self.tokenizer(text)["input_ids"])
        first = self.tokenizer.bos_token_id
        if bos == "always" and first is not None and ids[:1] != [first]:
            return [first, *ids]
        return ids[1:] if bos == "never" and first is not None and ids[:1] == [first] else ids

    def require_known(self, documents: Sequence[Sequence[int]]) -> None:
        """Raises ModelError where the tokenizer has ids that the model has no row for: the two are not one model's."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        largest = max((max(ids) for ids in documents if len(ids)), default=0)
        if largest >= rows:
            raise ModelError(
                f"{self.name}: its tokenizer gives the id {largest}, the model knows {rows}; use the tokenizer it was made with"
            )

    def losses(self, documents: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Of each document the loss (nats, fp32, on the CPU) of every token but the first: (length - 1,)."""
        with torch.inference_mode():
            if not self.packed:
                return [self._losses_alone(ids) for ids in documents]
            return [one for row in rows_of(documents, self.row_tokens) for one in self._losses_of_row(row)]

    def next_logits(self, documents: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (documents, vocabulary) fp32 of the token after each document, on the CPU."""
        with torch.inference_mode():
            if not self.packed:
                return torch.cat(
                    [self.model(_row(ids, self.model.device), use_cache=False).logits[:, -1].float().cpu() for ids in documents]
                )
            rows = [_pack(row, self.model.device) for row in rows_of(documents, self.row_tokens)]
            return torch.cat([self._head(self._hidden(row)[row.cu_seqlens[1:].long() - 1]).float().cpu() for row in rows])

    def means(self, documents: Sequence[Sequence[int]], skipped: Sequence[tuple[int, int]]) -> np.ndarray:
        """Of each document the mean of the last hidden states, as the head gets them: (documents, width) fp32.

        skipped: how many tokens of each document's beginning and end are left out.
        """
        found: list[torch.Tensor] = []
        with torch.inference_mode():
            for row in rows_of(documents, self.row_tokens) if self.packed else [[ids] for ids in documents]:
                if self.packed:
                    batch = _pack(row, self.model.device)
                    parts = self._hidden(batch).split(batch.cu_seqlens.diff().tolist())
                else:
                    parts = [self.model.base_model(_row(row[0], self.model.device), use_cache=False).last_hidden_state[0]]
                for states in parts:
                    before, after = skipped[len(found)]
                    found.append(states[before : len(states) - after].float().mean(dim=0).cpu())
        return torch.stack(found).numpy()

    def continuations(self, documents: Sequence[Sequence[int]], most: int, **chance: Any) -> list[list[int]]:
        """What it goes on with after each document, all at once, at most so many tokens, without the end token.

        chance: transformers' words for sampling (`do_sample`, `temperature`, `top_p`); greedy without.
        """
        ends = sorted(end_ids(self.model, self.tokenizer))
        padding, width = ends[0] if ends else 0, max(map(len, documents))
        ids = torch.tensor([[padding] * (width - len(d)) + list(d) for d in documents], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(d)) + [1] * len(d) for d in documents], device=self.model.device)
        with self._as_transformers(), torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=mask, max_new_tokens=most, eos_token_id=ends or None, pad_token_id=padding, repetition_penalty=1.0,
                **({"do_sample": False} | chance),
            )  # fmt: skip
        rows = out[:, width:].tolist()
        return [row[: next((k for k, id in enumerate(row) if id in ends), None)] for row in rows]

    @contextlib.contextmanager
    def _as_transformers(self) -> Iterator[None]:
        """With transformers' own attention, which keeps what it has computed from token to token."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation("sdpa" if self.packed else before)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def _losses_of_row(self, documents: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        batch = _pack(documents, self.model.device)
        hidden, targets = self._hidden(batch), batch.tokens[0].roll(-1)
        parts = [
            _token_losses(self._head(hidden[start : start + HEAD_TOKENS]), targets[start : start + HEAD_TOKENS])
            for start in range(0, len(targets), HEAD_TOKENS)
        ]
        losses, edges = torch.cat(parts).cpu(), batch.cu_seqlens.tolist()
        return [losses[start : stop - 1] for start, stop in zip(edges, edges[1:], strict=False)]

    def _hidden(self, batch: PackedBatch) -> torch.Tensor:
        out = self.model.base_model(
            input_ids=batch.tokens,
            position_ids=batch.position_ids,
            use_cache=False,
            cu_seqlens=batch.cu_seqlens,
            max_seqlen=batch.max_seqlen,
        )
        return out.last_hidden_state.squeeze(0)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.get_output_embeddings()(hidden)

    def _losses_alone(self, ids: Sequence[int]) -> torch.Tensor:
        row = _row(ids, self.model.device)
        return _token_losses(self.model(row, use_cache=False).logits[0, :-1], row[0, 1:]).cpu()


def load(folder: Path, dtype: str = "auto", device: torch.device | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of a checked folder; nothing is downloaded, unpickled or run from it.

    Args:
        dtype: fp32, bf16, or auto: the folder's own on a GPU, fp32 on a CPU.
        device: None for all GPUs that there are, else a CPU.
    Raises:
        ModelError: transformers does not load it, or weights are missing, which it would fill with random numbers.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    on_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    # bf16 without the units for it is five times slower than fp32
    chosen = ("auto" if on_gpu else torch.float32) if dtype == "auto" else in_torch(OF_RECIPE[dtype])
    base = adapted.require_base(folder) if is_adapter(folder) else None
    place: dict[str, Any] = {}
    if on_gpu:
        several = device is None and torch.cuda.device_count() > 1
        place = {"device_map": "auto" if several else {"": device or "cuda"}}
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(base if base and not any(folder.glob("tokenizer*")) else folder, **safe)
        model, report = AutoModelForCausalLM.from_pretrained(
            base or folder, dtype=chosen, use_safetensors=True, output_loading_info=True, **place, **safe
        )
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise ModelError(
            f"{folder}: transformers cannot load it ({told}); copy it again, or export it anew with launch/export_hf.py"
        ) from error
    absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if absent:
        raise ModelError(
            f"{folder}: weights are missing or of another shape: {', '.join(absent[:3])} … ({len(absent)} in all); copy it again"
        )
    if base:
        adapted.add(model, folder, base)
    return model.eval(), tokenizer


def check_folder(folder: Path) -> None:
    """ModelError unless it is a model folder with safetensors weights, unchanged since it was saved where a manifest tells."""
    check_shape(folder)
    if (folder / MANIFEST).is_file():
        require_unchanged(folder)


def check_shape(folder: Path) -> None:
    """ModelError unless it is a folder with a config and safetensors weights; nothing large is read."""
    if not folder.is_dir():
        what = "a file" if folder.is_file() else "no such folder"
        raise ModelError(f"{folder}: {what}; give a model folder, such as runs/NAME/checkpoints/step_000500")
    if is_adapter(folder):  # what is computed is its base and it
        check_shape(base_of_adapter(folder))
    elif not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json in it{meant(folder)}")
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))]
        why = (
            f"only {pickles[0]}, a pickle, which could run anything; python launch/export_hf.py {folder} OUT reads it safely"
            if pickles
            else "copy them, too"
        )
        raise ModelError(f"{folder}: no *.safetensors weights in it; {why}")


def require_unchanged(folder: Path) -> None:
    """ModelError where a file that a model is made of is not what a checkpoint's manifest says; the trainer's own files are not read."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        wanted = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items() if "/" not in name}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / MANIFEST}: not readable ({error}); copy the checkpoint again") from None
    for name, (size, hash) in wanted.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise ModelError(f"{path}: {'missing' if found is None else f'{found} bytes'}, {size} were saved; copy the checkpoint again")
        if sha256(path) != hash:
            raise ModelError(f"{path}: its content changed since it was saved; copy the checkpoint again")


def fingerprint(folder: Path) -> str:
    """A hash of all files that decide about a model's answers, so that a result is never taken for another model's."""
    folders = [folder, base_of_adapter(folder)] if is_adapter(folder) else [folder]
    files = sorted({path for folder in folders for pattern in WEIGHTS for path in folder.glob(pattern) if path.is_file()})
    return hashlib.sha256(json.dumps([(path.name, sha256(path)) for path in files if path.name != MANIFEST]).encode()).hexdigest()


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text: the model's and the tokenizer's."""
    of_model = model.generation_config.eos_token_id
    ids = {*of_model} if isinstance(of_model, list) else {of_model}
    return {id for id in ids | {tokenizer.eos_token_id} if id is not None}


def positions_of(config: Any) -> int | None:
    """Tokens that a model of this config was made for; None where it sets no limit."""
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(found) if found else None


def rows_of(documents: Sequence[Sequence[int]], tokens: int) -> list[list[Sequence[int]]]:
    """The documents in order, as many together as have `tokens` tokens, one at least."""
    rows: list[list[Sequence[int]]] = []
    held = 0
    for ids in documents:
        if not rows or held + len(ids) > tokens:
            rows.append([])
            held = 0
        rows[-1].append(ids)
        held += len(ids)
    return rows


def _pack(documents: Sequence[Sequence[int]], device: torch.device) -> PackedBatch:
    """All of them as the segments of one row, without targets."""
    lengths = torch.tensor([len(ids) for ids in documents])
    edges = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    total = int(edges[-1])
    positions = torch.arange(total) - edges[:-1].repeat_interleave(lengths)
    batch = PackedBatch(
        tokens=torch.tensor([[id for ids in documents for id in ids]]), labels=torch.full((1, total), IGNORED), position_ids=positions[None],
        cu_seqlens=edges.int(), max_seqlen=int(lengths.max()), source=torch.zeros(total, dtype=torch.int16), supervised=0,
    )  # fmt: skip
    return batch.to(device)


def _row(ids: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([list(ids)], device=device)


def _token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets.to(logits.device), reduction="none")
