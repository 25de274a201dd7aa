"""A low-rank adapter's folder as peft lays it out: where it stands in a model, its config, its tensors. Without torch.

adapter_config.json            rank, alpha, target_modules, the base's name
adapter_model.safetensors      base_model.model.NAME.lora_A.weight (rank, in), ….lora_B.weight (out, rank); what is trained whole by its own name
base_model.json                ours: which weights it was trained on

`Spec` says where an adapter stands and how it is scaled: from a recipe's words (`spec`), or from a folder (`read`). What peft has and is not
computed here is refused by name, so that nothing of a foreign adapter is left out in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.model_files import nf4
from train.model_files.folder import ModelError
from train.model_files.header import Entry, read_header
from train.model_files.shapes import Described, read_config

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base_model.json"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"
_IN_LAYERS = re.compile(r"\w+\.layers\.\d+\..+\.weight$")
_GROUPS = {
    "embeddings": re.compile(r"(embed_tokens|wte|embed_in)$"),
    "head": re.compile(r"(lm_head|embed_out)$"),
    "norms": re.compile(r"norm\w*$"),
}
# what peft may write and this reader takes, or what says nothing of the result
_READ = {
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern",
    "modules_to_save", "init_lora_weights", "auto_mapping", "revision", "inference_mode", "lora_dropout", "exclude_modules", "layers_to_transform",
    "layers_pattern", "peft_version", "runtime_config", "ensure_weight_tying", "eva_config", "megatron_core", "qalora_group_size", "bias",
    "loftq_config",
}  # fmt: skip
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")  # that leave the base's weights as they are


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


# -- from a recipe ----------------------------------------------------------------------------------------------------


def spec(
    model: Described, *, rank: int, alpha: float, rslora: bool, targets: tuple[str, ...] = (), train_also: tuple[str, ...] = ()
) -> Spec:
    """An adapter as a recipe words it.

    Raises:
        AdapterError: with all words that name nothing in this model.
    """
    all_linears = [name.removesuffix(".weight") for name in linears(model)]
    known = sorted({module.rpartition(".")[2] for module in all_linears})
    modules, faults = dict.fromkeys(all_linears if not targets else ()), []
    for word in targets:
        found = [module for module in all_linears if module == word or module.endswith(f".{word}")]
        modules |= dict.fromkeys(found)
        if not found:
            faults.append(f"adapter.targets={word}: no linear layer of the decoder is called so; there are {', '.join(known)}")
    ordered = [module for module in all_linears if module in modules]
    whole: dict[str, None] = {}
    for word in train_also:
        found = _whole(model, word, set(ordered))
        whole |= dict.fromkeys(found)
        if not found:
            faults.append(
                f"adapter.train_also={word}: nothing beside the adapter is called so; give embeddings, head, norms or a module's last name"
            )
    if faults:
        raise AdapterError("\n".join(faults))
    return Spec(dict.fromkeys(ordered, rank), dict.fromkeys(ordered, float(alpha)), rslora, tuple(n for n in model.shapes if n in whole))


def _whole(model: Described, word: str, adapted: set[str]) -> list[str]:
    """Parameters that a word of train_also means, tied ones by the name they stand under."""
    found = []
    for name in (*model.shapes, *model.tied):
        module = name.rpartition(".")[0]
        meant = _GROUPS[word].search(module) if word in _GROUPS else module == word or module.endswith(f".{word}")
        if meant and module not in adapted:
            found.append(model.tied.get(name, name))
    return found


# -- from a folder ----------------------------------------------------------------------------------------------------


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


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def config_of(folder: Path) -> dict[str, Any]:
    """adapter_config.json, of an adapter that is computed here.

    Raises:
        AdapterError: naming everything that is not.
    """
    if not is_adapter(folder):
        raise AdapterError(f"{folder}: no {CONFIG} in it; give the folder of an adapter, of ours or of peft")
    config = read_config(folder / CONFIG)
    faults = []
    if str(config.get("peft_type", "")).upper() not in ("LORA", "PEFTTYPE.LORA"):
        faults.append(f"peft_type={config.get('peft_type')}: only LORA is computed here")
    if config.get("use_dora"):
        faults.append("use_dora=true: the columns' magnitudes are not computed here; merge it with peft's merge_and_unload")
    if config.get("fan_in_fan_out"):
        faults.append("fan_in_fan_out=true: its base keeps weights the other way round (Conv1D), as no Llama-like model does")
    if config.get("bias", "none") != "none":
        faults.append(f"bias={config['bias']}: biases trained beside the adapter are not read; merge it with peft's merge_and_unload")
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        faults.append(
            f"init_lora_weights={start}: such an adapter is of a base whose weights were changed when it began; "
            "save it once more by peft with path_initial_model_for_weight_conversion"
        )
    said = ("use_dora", "fan_in_fan_out")
    faults += [f"{key}={value}: not computed here" for key, value in config.items() if value and key not in _READ and key not in said]
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
            other = "; it has adapter_model.bin, which is read by export_hf.py alone" if (folder / "adapter_model.bin").is_file() else ""
            raise AdapterError(f"{folder}: there is no {WEIGHTS}{other}; copy the adapter's folder again")
        entries = read_header(folder / WEIGHTS)
    low: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    embedded, faults = set(), []
    for key, entry in entries.items():
        name = key.removeprefix(PREFIX)
        for part, ends in (("A", (A, EMBEDDING_A)), ("B", (B, EMBEDDING_B))):
            if end := next((e for e in ends if name.endswith(e)), None):
                weight = name.removesuffix(end) + ".weight"
                low.setdefault(model.tied.get(weight, weight), {})[part] = key
                embedded |= {weight} if end in (EMBEDDING_A, EMBEDDING_B) else set()
                break
        else:
            name = name.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".").replace(".original_module.", ".")
            if "lora_" in name:
                faults.append(f"{key}: this part of an adapter is not computed here")
            elif (target := model.tied.get(name, name)) not in model.shapes:
                faults.append(f"{key}: the base has no tensor {name}")
            else:
                whole.setdefault(target, key)
                faults += [f"{key}: {entry.dtype}; quantized values are not read"] * (not entry.dtype.is_floating_point)
    for weight, keys in low.items():
        faults += _misfits(weight, {part: entries[key] for part, key in keys.items()}, model, weight in embedded)
    faults += [
        f"{name}: shape {list(entries[key].shape)}, the base has {list(model.shapes[name])}; is its vocabulary another one?"
        for name, key in whole.items()
        if tuple(entries[key].shape) != model.shapes[name]
    ]
    faults += _half_tied(entries, whole, low, model)
    if not low and not whole:
        faults.append(f"{WEIGHTS}: holds no tensor of an adapter")
    empty = [key for key, e in entries.items() if not e.numel]
    faults += [f"{key}: empty; the program that saved it gathered nothing (ZeRO-3), take an earlier save" for key in empty]
    if not faults:
        of = _spec_of(
            config, {w: entries[keys["A"]].shape[0] for w, keys in low.items()}, tuple(n for n in model.shapes if n in whole), faults
        )
    if faults:
        shown = "\n".join(f"  - {f}" for f in faults[:20]) + (f"\n  - and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise AdapterError(f"{folder}: this adapter does not fit its base; nothing was made\n{shown}")
    return Folder(folder, config, entries, {w: (keys["A"], keys["B"]) for w, keys in low.items()}, whole, frozenset(embedded), of)


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


def _half_tied(entries: dict[str, Entry], whole: dict[str, str], low: dict[str, Any], model: Described) -> list[str]:
    """Where a base's head is its embedding, peft trains one of the two apart: no such model can be written."""
    stored = {key.removeprefix(PREFIX).replace(".base_layer.", ".") for key in entries}
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


def in_four_bits(folder: Path, model: Described) -> set[str]:
    """The base's weights that it was trained on in four bits (model_files/nf4.py)."""
    if (base_of(folder) or {}).get("quantize") != "nf4":
        return set()
    return {name for name in linears(model) if math.prod(model.shapes[name]) % nf4.ELEMENTS == 0}


def base_of(folder: Path) -> dict[str, Any] | None:
    """What base_model.json says of the weights it was trained on: path, folder, fingerprint, how they were held; None: a foreign adapter says nothing."""
    return json.loads((folder / BASE).read_text()) if (folder / BASE).is_file() else None
