"""A low-rank adapter's folder as peft lays it out: where it stands in a model, its config, its tensors. Without torch.

adapter_config.json            rank, alpha, target_modules, the base's name
adapter_model.safetensors      base_model.model.NAME.lora_A.weight (rank, in), ….lora_B.weight (out, rank); what is trained whole by its own name
base_model.json                ours: which weights it was trained on

`Spec` says where an adapter stands and how it is scaled: from a recipe's words (model/adapter_spec.py), or from a folder (`read`). What peft has and is not
computed here is refused by name, so that nothing of a foreign adapter is left out in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.model_files.folder import ModelError
from train.model_files.header import Entry, read_header
from train.model_files.quantized import ELEMENTS, FORMATS, Format
from train.model_files.shapes import Described, read_config
from train.model_files.stream import Extent, RangeReader, Tensor

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base_model.json"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
MAGNITUDE = re.compile(r"\.lora_magnitude_vector(\.weight)?$")  # of DoRA: the length of each row of W + scale * B A
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"
_IN_LAYERS = re.compile(r"\w+\.layers\.\d+\..+\.weight$")
# what peft may write and this reader takes, or what says nothing of the result
_READ = {
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern",
    "modules_to_save", "init_lora_weights", "auto_mapping", "revision", "inference_mode", "lora_dropout", "exclude_modules", "layers_to_transform",
    "layers_pattern", "peft_version", "runtime_config", "ensure_weight_tying", "eva_config", "megatron_core", "qalora_group_size", "bias",
    "loftq_config", "use_dora",
}  # fmt: skip
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # that leave the base's weights as they are
# what wrappers put into names (torch.compile, FSDP, DDP), and where peft's own state dict has the adapter's name
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)(?=\.)")
_NAMED = re.compile(r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|modules_to_save)\.(?!weight$)(\w+)(?=\.|$)")


class AdapterError(ModelError):
    """An adapter that is not computed exactly here, or does not fit its base; says which part, and what to do."""


@dataclass(frozen=True)
class Spec:
    """Where an adapter stands and how it is scaled. ranks, alphas: by module; whole: parameters trained as they are."""

    ranks: dict[str, int]
    alphas: dict[str, float]
    rslora: bool
    whole: tuple[str, ...] = ()

    def scale(self, module: str) -> float:
        rank = self.ranks[module]
        return self.alphas[module] / (math.sqrt(rank) if self.rslora else rank)

    def words(self) -> str:
        """For a line of the log."""
        ranks = sorted(set(self.ranks.values()))
        named = ", ".join(dict.fromkeys(module.rpartition(".")[2] for module in self.ranks))
        scales = sorted({round(self.scale(module), 4) for module in self.ranks})
        also = f", and {len(self.whole)} tensors trained whole" if self.whole else ""
        return (
            f"rank {', '.join(map(str, ranks))}, scale {', '.join(f'{s:g}' for s in scales)}, at {len(self.ranks)} layers ({named}){also}"
        )

    def shapes(self, model: Described) -> dict[str, tuple[int, ...]]:
        """Of everything that is trained, by the trainer's names."""
        found: dict[str, tuple[int, ...]] = {}
        for module, rank in self.ranks.items():
            out, into = model.shapes[f"{module}.weight"]
            found |= {f"{module}{A}": (rank, into), f"{module}{B}": (out, rank)}
        return found | {name: model.shapes[name] for name in self.whole}

    def in_file(self, model: Described) -> dict[str, str]:
        """Name in the file → the trainer's name; a tied tensor that is trained stands under each of its names, as peft untangles them."""
        names = {f"{PREFIX}{name}": name for name in self.shapes(model)}
        return names | {f"{PREFIX}{alias}": name for alias, name in model.tied.items() if name in self.whole}

    def config(self, model: Described, base: str) -> dict[str, Any]:
        """adapter_config.json, for peft."""
        rank, alpha = _commonest(self.ranks.values()), _commonest(map(_whole_number, self.alphas.values()))
        modules = [name.removesuffix(".weight") for name in model.shapes if name.endswith(".weight")]
        products = [name.removesuffix(".weight") for name in linears(model)]
        saved = [name.rpartition(".")[0] for name in (*self.whole, *(a for a, name in model.tied.items() if name in self.whole))]
        return {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "revision": None, "r": rank, "lora_alpha": alpha,
            "target_modules": _short(self.ranks, [*products, *(a.removesuffix(".weight") for a in model.tied)], "."), "use_rslora": self.rslora,
            "rank_pattern": {re.escape(m): r for m, r in self.ranks.items() if r != rank},
            "alpha_pattern": {re.escape(m): _whole_number(a) for m, a in self.alphas.items() if a != alpha},
            "modules_to_save": _short(dict.fromkeys(saved), [*modules, *(a.removesuffix(".weight") for a in model.tied)], "") if saved else None,
            "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "use_dora": False, "init_lora_weights": True, "inference_mode": True,
        }  # fmt: skip


def _whole_number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _commonest(values: Iterable[Any]) -> Any:
    values = list(values)
    return max(dict.fromkeys(values), key=values.count) if values else 1


def _short(chosen: Iterable[str], among: list[str], sign: str) -> list[str]:
    """Last names that mean the chosen modules and no other, as peft looks for them; whole names where there are none."""
    chosen = list(chosen)
    last = list(dict.fromkeys(name.rpartition(".")[2] for name in chosen))
    meant = {name for name in among if any(name == word or name.endswith(f"{sign}{word}") for word in last)}
    return last if meant == set(chosen) else chosen


def linears(model: Described) -> list[str]:
    """Weights of the linear layers of the decoder's blocks."""
    return [name for name, shape in model.shapes.items() if len(shape) == 2 and _IN_LAYERS.match(name)]


@dataclass(frozen=True)
class Folder:
    """An adapter that was read. entries: its tensors by their names in the file. low: weight → the names of its A and B; whole: parameter → the
    name of what takes its place."""

    path: Path
    config: dict[str, Any]
    entries: dict[str, Entry]
    low: dict[str, tuple[str, str]]
    whole: dict[str, str]
    embedded: frozenset[str]  # those of `low` that stand at an embedding, whose A and B lie the other way round
    spec: Spec
    magnitudes: dict[str, str]  # weight → the name of its rows' lengths (DoRA)
    twins: dict[str, tuple[str, str]]  # a parameter that has two names in the base, where both were saved: must be the same (require_alike)


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def nested(folder: Path) -> str:
    """Words on the adapters further down: peft saves those that have a name of their own there, and a run its checkpoints."""
    places = [f"*/{CONFIG}", f"checkpoints/*/{CONFIG}"] if folder.is_dir() else []
    found = sorted(str(config.parent) for place in places for config in folder.glob(place))
    return f", but in {', '.join(found[:4])}{' and others' if len(found) > 4 else ''}" if found else ""


def config_of(folder: Path) -> dict[str, Any]:
    """adapter_config.json, of an adapter that is computed here.

    Raises:
        AdapterError: naming everything that is not.
    """
    if not is_adapter(folder):
        raise AdapterError(f"{folder}: no {CONFIG} in it{nested(folder)}; give the folder of an adapter, of ours or of peft")
    config = read_config(folder / CONFIG)
    faults = []
    if str(config.get("peft_type", "")).upper() not in ("LORA", "PEFTTYPE.LORA"):
        faults.append(f"peft_type={config.get('peft_type')}: only LORA is computed here")
    if config.get("fan_in_fan_out"):
        faults.append("fan_in_fan_out=true: its base keeps weights the other way round (Conv1D), as no Llama-like model does")
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        faults.append(
            f"init_lora_weights={start}: such an adapter is of a base whose weights were changed when it began; "
            "save it once more by peft with path_initial_model_for_weight_conversion"
        )
    unread = [key for key, value in config.items() if value and key not in _READ and key != "fan_in_fan_out"]
    faults += [f"{key}={config[key]}: not computed here" for key in unread]
    if faults:
        raise AdapterError(f"{folder / CONFIG}: this adapter is not taken:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return config


def read(folder: Path, model: Described, entries: dict[str, Entry] | None = None) -> Folder:
    """An adapter's tensors, held against its config and the base's shapes.

    Args:
        entries: its tensors by their names in the file, where they do not lie in adapter_model.safetensors.
    Raises:
        AdapterError: all that does not fit, in one message.
    """
    config = config_of(folder)
    if entries is None:
        if not (folder / WEIGHTS).is_file():
            what = "copy the adapter's folder again"
            if (folder / "adapter_model.bin").is_file():
                what = f"export_hf.py alone reads its adapter_model.bin, and makes one of it: python launch/export_hf.py {folder} OUT"
            raise AdapterError(f"{folder}: there is no {WEIGHTS}; {what}")
        entries = read_header(folder / WEIGHTS)
    low: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    twins: dict[str, tuple[str, str]] = {}
    magnitudes: dict[str, str] = {}
    embedded, faults = set(), []
    for key, entry in entries.items():
        name = _plain(key)
        for part, ends in (("A", (A, EMBEDDING_A)), ("B", (B, EMBEDDING_B))):
            if end := next((e for e in ends if name.endswith(e)), None):
                weight = name.removesuffix(end) + ".weight"
                parts = low.setdefault(model.tied.get(weight, weight), {})
                if part in parts:
                    faults.append(f"{key}: a second {part} beside {parts[part]}; save one adapter alone")
                parts[part] = key
                embedded |= {weight} if end in (EMBEDDING_A, EMBEDDING_B) else set()
                break
        else:
            name = name.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
            if ".original_module." in name:
                continue  # the base's own, in whose place another one stands
            if MAGNITUDE.search(name):
                magnitudes[MAGNITUDE.sub(".weight", name)] = key
                continue
            if "lora_" in name:
                faults.append(f"{key}: this part of an adapter is not computed here")
            elif (target := model.tied.get(name, name)) not in model.shapes:
                faults.append(f"{key}: the base has no tensor {name}")
            else:
                if target in whole:
                    twins[target] = whole[target], key
                whole.setdefault(target, key)
                faults += [f"{key}: {entry.dtype}; quantized values are not read"] * (not entry.dtype.is_floating_point)
    for weight, keys in low.items():
        faults += _misfits(weight, {part: entries[key] for part, key in keys.items()}, model, weight in embedded)
    faults += [_misshapen(name, tuple(entries[key].shape), model.shapes[name]) for name, key in whole.items() if entries[key].numel]
    faults += _magnitude_faults(magnitudes, entries, low, embedded, bool(config.get("use_dora")), model)
    faults += _half_tied(entries, whole, low, model)
    biases = {bias for weight in low if (bias := weight.removesuffix("weight") + "bias") in model.shapes}
    if config.get("bias", "none") != "none" and biases and not biases & whole.keys():
        faults.append(f"bias={config['bias']}: biases were trained beside it, and none was saved; merge it with the peft that trained it")
    if not low and not whole:
        faults.append(f"{WEIGHTS}: holds no tensor of an adapter")
    empty = [key for key, e in entries.items() if not e.numel]
    faults += [f"{key}: empty; the program that saved it gathered nothing (ZeRO-3), take an earlier save" for key in empty]
    faults = [fault for fault in faults if fault]
    if not faults:
        of = _spec_of(
            config, {w: entries[keys["A"]].shape[0] for w, keys in low.items()}, tuple(n for n in model.shapes if n in whole), faults
        )
    if faults:
        shown = "\n".join(f"  - {f}" for f in faults[:20]) + (f"\n  - and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise AdapterError(f"{folder}: this adapter does not fit its base; nothing was made\n{shown}")
    return Folder(
        folder, config, entries, {w: (keys["A"], keys["B"]) for w, keys in low.items()}, whole, frozenset(embedded), of, magnitudes, twins
    )


def require_alike(adapter: Folder) -> None:
    """Raises AdapterError where two tensors were saved for one that the base has under two names, and they are not the same."""
    reader = RangeReader()
    try:
        for name, keys in adapter.twins.items():
            one, other = (reader.tensor(e.shape, [Extent(e.file, e.start, e.numel, e.dtype)]) for e in (adapter.entries[k] for k in keys))
            require_same(adapter, name, one, other)
    finally:
        reader.close()


def require_same(adapter: Folder, name: str, one: Tensor, other: Tensor) -> None:
    """Both in parts of the same size, since they have one shape; raises AdapterError."""
    if one.dtype is not other.dtype or not all(np.array_equal(a, b) for a, b in zip(one.parts(), other.parts(), strict=True)):
        keys = " and ".join(adapter.twins[name])
        raise AdapterError(f"{adapter.path}: {keys} are two different tensors, and the base has one for both; merge it with peft, untied")


def _plain(key: str) -> str:
    """A tensor's name in its file without what wrappers, peft and an adapter's own name have put into it."""
    return _NAMED.sub(r".\1", _WRAPPERS.sub("", key).lstrip(".").removeprefix(PREFIX))


def _misshapen(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if found == wanted:
        return ""
    if len(found) == len(wanted) == 2 and found[1] == wanted[1]:
        return (
            f"{name}: {found[0]} rows, the base has {wanted[0]}: its vocabulary was changed; resize the base first (transformers' "
            f"resize_token_embeddings({found[0]}), saved with this adapter's tokenizer), and give that folder as the base"
        )
    return f"{name}: shape {list(found)}, the base has {list(wanted)}; is it an adapter of another model?"


def _misfits(weight: str, parts: dict[str, Entry], model: Described, embedded: bool) -> list[str]:
    if weight not in model.shapes:
        return [f"{weight}: the base has no such tensor; is it an adapter of another model?"]
    if len(parts) < 2:
        return [f"{weight}: has only one of A and B"]
    a, b, shape = parts["A"], parts["B"], model.shapes[weight]
    if not a.numel or not b.numel:
        return []  # told as empty
    wanted = (shape[1], shape[0]) if embedded else shape  # an embedding's A is (rank, vocabulary), its B (width, rank)
    if len(a.shape) != 2 or len(b.shape) != 2 or (b.shape[0], a.shape[1]) != wanted or a.shape[0] != b.shape[1]:
        return [f"{weight}: A {list(a.shape)} and B {list(b.shape)} make no {list(wanted)}; is it an adapter of another model?"]
    return [f"{weight}: {e.dtype}; quantized adapters are not read" for e in (a, b) if not e.dtype.is_floating_point]


def _magnitude_faults(
    magnitudes: dict[str, str], entries: dict[str, Entry], low: dict[str, Any], embedded: set[str], dora: bool, model: Described
) -> list[str]:
    if not dora:
        return [f"{key}: of DoRA, and use_dora is not set in {CONFIG}" for key in magnitudes.values()]
    faults = [f"{weight}: use_dora=true, and its magnitudes are missing" for weight in low if weight not in magnitudes]
    for weight, key in magnitudes.items():
        if weight in embedded:
            faults.append(f"{key}: DoRA at an embedding is not computed here; merge it with peft's merge_and_unload")
        elif weight not in low or entries[key].numel != model.shapes[weight][0]:
            faults.append(f"{key}: {list(entries[key].shape)} magnitudes; is it an adapter of another model?")
    return faults


def _half_tied(entries: dict[str, Entry], whole: dict[str, str], low: dict[str, Any], model: Described) -> list[str]:
    """Where a base's head is its embedding, peft trains one of the two apart: no such model can be written."""
    stored = {_plain(key).replace(".base_layer.", ".").replace(".modules_to_save.", ".") for key in entries}
    faults = []
    for alias, name in model.tied.items():
        faults += [
            f"{name}: trained apart from {alias}, which the base ties to it; merge it into a base with tie_word_embeddings=false"
        ] * (name in low or name in whole and not {alias, name} <= stored)
    return faults


def _spec_of(config: dict[str, Any], ranks: dict[str, int], whole: tuple[str, ...], faults: list[str]) -> Spec:
    """Ranks and alphas by module; `faults` gets those that config and tensors do not agree on."""
    found_ranks, alphas = {}, {}
    for weight, rank in ranks.items():
        module = weight.removesuffix(".weight")
        try:
            said = _by_pattern(config.get("rank_pattern") or {}, module, config.get("r"))
            alphas[module] = float(_by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha")))
        except (TypeError, ValueError, re.error) as error:
            faults.append(f"{CONFIG}: {module}: rank and alpha cannot be read ({error})")
            continue
        found_ranks[module] = rank
        if said != rank:
            faults.append(
                f"{module}: rank {rank} in its tensors, {said} in {CONFIG}; the scale would be wrong, restore the folder's own config"
            )
    return Spec(found_ranks, alphas, bool(config.get("use_rslora")), whole)


def _by_pattern(patterns: dict[str, Any], module: str, otherwise: Any) -> Any:
    """peft's rule: the first pattern that matches the end of the module's name, from a dot on."""
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), otherwise)


def quantized(folder: Path, model: Described) -> dict[str, Format]:
    """How the base's weights were held that it was trained on in fewer bits (model_files/quantized.py)."""
    format = FORMATS.get((base_of(folder) or {}).get("quantize"))
    return {name: format for name in linears(model) if format and math.prod(model.shapes[name]) % ELEMENTS == 0}


def base_of(folder: Path) -> dict[str, Any] | None:
    """What base_model.json says of the weights it was trained on: path, folder, fingerprint, how they were held; None: a foreign adapter says nothing."""
    return read_config(folder / BASE) if (folder / BASE).is_file() else None
