"""Which file of a model's folder decides its token ids, and the hash that shards remember it by."""

from pathlib import Path

from data_tools.files.atomic import sha256_file
from data_tools.shards.format import ShardError


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
