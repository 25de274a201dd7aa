"""What goes along with exported weights: config, tokenizer, generation config and a card, checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from train.export.licenses import Licensed
from train.export.source import ExportError
from train.model_files import companions
from train.model_files.companions import generation_faults
from train.model_files.dtypes import FP32, DType
from train.model_files.shapes import EMBEDDING, Described, read_config


def check(folder: Path, model: Described) -> list[str]:
    """Whether config, tokenizer and generation config of a folder fit each other and the model; returns remarks.

    Raises:
        ExportError: all faults in one message.
    """
    faults, remarks = generation_faults(folder / "generation_config.json"), []
    rows = model.shapes[EMBEDDING][0] if EMBEDDING in model.shapes else None
    config = read_config(folder / "config.json")
    companions.companion_files(folder, {}, FP32)  # raises where one cannot be read
    vocabulary = config.get("vocab_size")
    if rows is not None and vocabulary is not None and vocabulary != rows:
        faults.append(f"config.json: vocab_size={vocabulary}, the embedding has {rows} rows; set vocab_size to {rows}")
    for file, ids in tokenizer_ids(folder).items():
        if rows is not None and ids > rows:
            faults.append(
                f"{file}: has token id {ids - 1}, the embedding has {rows} rows (ids 0 to {rows - 1}); give the tokenizer the model was "
                "trained with by --config DIR"
            )
        elif rows is not None and ids < rows:
            remarks.append(f"{file}: {ids} tokens, {rows} rows in the embedding; the {rows - ids} rows after them are never used")
    if faults:
        raise ExportError(f"{folder}: {len(faults)} things do not fit; nothing was made\n" + "\n".join(f"  - {f}" for f in faults))
    return remarks


def tokenizer_ids(folder: Path) -> dict[str, int]:
    """Tokenizer file → the number of ids it uses (its highest id + 1).

    Raises:
        ExportError: a file that cannot be read.
    """
    found = {}
    fast, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    try:
        if fast.is_file():
            content = json.loads(fast.read_bytes())
            vocabulary = content["model"]["vocab"]
            ids = max(vocabulary.values(), default=-1) + 1 if isinstance(vocabulary, dict) else len(vocabulary)
            found[fast.name] = max([ids, *(int(token["id"]) + 1 for token in content.get("added_tokens") or [])])
        elif pieces.is_file():
            from sentencepiece import SentencePieceProcessor

            extra = folder / "added_tokens.json"
            added = json.loads(extra.read_bytes()) if extra.is_file() else {}
            found[pieces.name] = max(
                [SentencePieceProcessor(model_proto=pieces.read_bytes()).get_piece_size(), *(int(i) + 1 for i in added.values())]
            )
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError, RecursionError) as error:
        raise ExportError(f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {error}); fetch its files again") from None
    return found


def fingerprints(folder: Path) -> dict[str, str]:
    """sha256 of each companion file there is."""
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in companions.companion_names(folder)}


def copy(folder: Path, out: Path, dtype: DType, card: str, beside: Mapping[str, bytes] = MappingProxyType({})) -> list[str]:
    """Write the companions, README.md and what goes `beside`; returns their names."""
    files = companions.companion_files(folder, {}, dtype)
    beside = {name: content for name, content in beside.items() if name not in files}
    companions.write_companions(files, out)
    for name, content in beside.items():
        (out / name).write_bytes(content)
    (out / "README.md").write_text(card, encoding="utf-8")
    return [*files, *beside, "README.md"]


def of_release(folder: Path, found: Licensed) -> dict[str, bytes]:
    """What a release has more than an export: licence texts, and a generation config where the model has none."""
    config = read_config(folder / "config.json")
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None}
    return {"generation_config.json": (json.dumps(ids, indent=2) + "\n").encode(), **found.files}
