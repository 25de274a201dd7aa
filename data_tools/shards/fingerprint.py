"""Which file of a model's folder decides its token ids, and the hash that shards remember it by."""

import hashlib
from pathlib import Path

from data_tools.files.atomic import sha256_file
from data_tools.shards.format import ShardError
from data_tools.shards.merges import spellings


def tokenizer_file(folder: Path) -> Path:
    """The file that decides the ids: tokenizer.model, else the only *.model, else tokenizer.json."""
    folder = Path(folder)
    models = sorted(folder.glob("*.model"))
    for path in (folder / "tokenizer.model", models[0] if len(models) == 1 else folder / "tokenizer.json"):
        if path.is_file():
            return path
    found = ", ".join(path.name for path in models) or ("no such folder" if not folder.is_dir() else "neither")
    raise ShardError(f"{folder}: needs tokenizer.model or tokenizer.json, found: {found}; give the folder of the model's tokenizer")


def tokenizer_fingerprint(folder: Path) -> str:
    """sha256 (hex) of the folder's `tokenizer_file`."""
    return sha256_file(tokenizer_file(folder))


def tokenizer_fingerprints(folder: Path) -> tuple[str, ...]:
    """The fingerprint, and that of the same tokenizer.json with merges in their other spelling: a checkpoint or an export of a model
    may have that one."""
    file = tokenizer_file(folder)
    if file.suffix != ".json":
        return (tokenizer_fingerprint(folder),)
    return tuple(hashlib.sha256(text).hexdigest() for text in spellings(file.read_bytes()))
