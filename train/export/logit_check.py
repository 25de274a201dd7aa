"""An export's logits against those the training engine recorded when it saved: `export_hf.py … --check`.

Every checkpoint carries `trainer/probe.safetensors`: `tokens` (T,) int64, one document, and `logits` (T, vocabulary) fp32, as the
engine computed them. The export is run by transformers on the same tokens, its weights as they were written, the arithmetic in fp32.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from train.checkpoint.layout import MANIFEST, PROBE, STATE
from train.export.source import ExportError
from train.model_files.adapter import is_adapter
from train.model_files.dtypes import BF16, FP32, in_torch
from train.model_files.folder import read_folder
from train.model_files.header import Entry, read_header
from train.model_files.reader import read_range
from train.model_files.shapes import described

if TYPE_CHECKING:
    from train.export.plan import Request

# Largest difference allowed, relative to the largest logit, by the dtypes of engine and export. Measured with SmolLM2-135M (30
# layers) on 16 and 32 tokens of abstracts: bf16 weights under an fp32 engine's 4.7e-3 and 2.6e-2, an engine that computes in bf16
# 4.2e-2. Two heads exchanged in one layer give 2.6e-2 to 2.2e-1, a layer's gate in another's place 2.3e-1: where bf16 comes in, only
# gross faults can be told from rounding; an fp32 engine's fp32 export is the sharp check.
TOLERANCES = {("fp32", "fp32"): 1e-5, ("fp32", "bf16"): 1e-1, ("bf16", "bf16"): 1e-1, ("bf16", "fp32"): 1e-1}


class CheckError(ValueError):
    """The export does not compute what the engine computed; it was not published."""


@dataclass(frozen=True)
class Probe:
    """What the engine computed: tokens (T,), logits (T, vocabulary)."""

    tokens: torch.Tensor
    logits: torch.Tensor
    engine_dtype: str
    export_dtype: str

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.engine_dtype, self.export_dtype]


def probe_of(request: Request) -> Probe:
    """The engine's record in the checkpoint that is exported.

    Raises:
        ExportError: there is none, or it is not of this model.
    """
    if request.merge or request.average:
        raise ExportError(
            "--check: a merged or averaged model never ran in an engine, so there is nothing to compare it with; leave --check out"
        )
    folder = request.checkpoint
    if is_adapter(folder) and not request.merge_adapter:
        raise ExportError("--check: an adapter alone computes nothing; add --merge-adapter, or leave --check out")
    file = folder / PROBE
    if not file.is_file():
        raise ExportError(f"{folder}: holds no {PROBE}, so there is nothing to compare the export with; leave --check out")
    recorded = json.loads((folder / MANIFEST).read_text())["files"].get(PROBE, {}).get("sha256")
    if hashlib.sha256(file.read_bytes()).hexdigest() != recorded:
        raise ExportError(f"{file}: its content has changed since it was written; leave --check out, or take another checkpoint")
    entries = read_header(file)
    tokens, logits = (_read(entries[name]) for name in ("tokens", "logits"))
    engine_dtype = json.loads((folder / STATE).read_text())["recipe"]["model"]["dtype"]
    return Probe(tokens, logits, engine_dtype, {BF16: "bf16", FP32: "fp32"}[request.dtype])


def compare(probe: Probe, folder: Path) -> str:
    """One line of figures.

    Raises:
        CheckError: the logits differ by more than the tolerance.
    """
    logits, how = run(folder, probe.tokens)
    if logits.shape != probe.logits.shape:
        raise CheckError(f"{folder}: logits are {list(logits.shape)}, the engine recorded {list(probe.logits.shape)}; not published")
    figures = compared(logits, probe.logits)
    shown = (
        f"max |Δ logit| {figures['max']:.3g}, {figures['relative']:.3g} of the largest; top-1 agrees on {figures['agree']:.1%} of "
        f"{len(probe.tokens)} tokens; KL {figures['kl']:.3g} nats; {probe.engine_dtype} engine, {probe.export_dtype} export, {how}"
    )
    if not figures["relative"] <= probe.tolerance:  # also when it is not a number
        raise CheckError(
            f"the export does not compute what the engine did: {shown}; at most {probe.tolerance:g} of the largest is allowed; not published"
        )
    return f"check: {shown}; {probe.tolerance:g} of the largest is allowed"


def compared(logits: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Both (T, vocabulary). KL is that of the reference's next-token distribution to the other's, the mean over tokens."""
    ours, theirs = logits.double(), reference.double()
    largest = float(theirs.abs().max())
    gap = float((ours - theirs).abs().max())
    kl = torch.nn.functional.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")
    agree = float((ours.argmax(-1) == theirs.argmax(-1)).double().mean())
    return {"max": gap, "relative": gap / largest if largest else gap, "agree": agree, "kl": float(kl)}


def run(folder: Path, tokens: torch.Tensor, room: int | None = None) -> tuple[torch.Tensor, str]:
    """Logits (T, vocabulary) in fp32 of a model folder by transformers, and how it was held in memory.

    Args:
        room: bytes the weights may take; more than that, and each module's weights are read when it runs (default: half of what is free).
    """
    entries = read_folder(folder)
    needed = 4 * sum(entry.numel for entry in entries.values())
    if room is None:
        import psutil

        room = psutil.virtual_memory().available // 2
    whole = needed <= room
    model = _whole(folder) if whole else _module_by_module(folder, entries)
    with torch.inference_mode():
        logits = model(input_ids=tokens[None], use_cache=False).logits[0].float()
    return logits, "held whole" if whole else "weights read as each module ran"


def _whole(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def _module_by_module(folder: Path, entries: dict[str, Entry]) -> Any:
    """A model that is empty but for the module that runs."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()
    tied = described(folder / "config.json").tied
    for path, module in model.named_modules():
        own = {name: f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        if own:
            _lend(module, {name: entries[full if full in entries else tied[full]] for name, full in own.items()})
    return model


def _lend(module: torch.nn.Module, own: dict[str, Entry]) -> None:
    """Give a module its parameters for the time it runs."""
    empty = {name: getattr(module, name) for name in own}

    def fill(module: torch.nn.Module, _: object) -> None:
        for name, entry in own.items():
            setattr(module, name, torch.nn.Parameter(_read(entry).float(), requires_grad=False))

    def clear(module: torch.nn.Module, _: object, __: object) -> None:
        for name, parameter in empty.items():
            setattr(module, name, parameter)

    module.register_forward_pre_hook(fill)
    module.register_forward_hook(clear)


def _read(entry: Entry) -> torch.Tensor:
    value = torch.empty(entry.numel, dtype=in_torch(entry.dtype))
    for at, piece in read_range(entry, 0, entry.numel):
        value[at : at + piece.numel()] = piece
    return value.view(entry.shape)
