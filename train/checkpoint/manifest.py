"""What makes a folder a checkpoint: its manifest vouches for every file by size and hash; without one that verifies there is no checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.checkpoint.layout import FORMAT, MANIFEST, folder_name
from train.world.places import as_os_errors, sha256, write_durably

if TYPE_CHECKING:
    from train.world.ranks import World


def write(folder: Path, step: int, files: dict[str, tuple[int, str]]) -> None:
    """The last file of a checkpoint: size and sha256 of every other, and its own hash, so that damage to it is told from damage to them."""
    content = {"format": FORMAT, "step": step, "files": {f: {"bytes": b, "sha256": h} for f, (b, h) in sorted(files.items())}}
    write_durably(folder / MANIFEST, _text(content))


def _text(content: dict[str, Any]) -> str:
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"manifest_sha256": own}, indent=1) + "\n"


def faults_of(folder: Path, part: tuple[int, int] = (0, 1)) -> list[str]:
    """What is wrong with a checkpoint folder: sizes of all files, hashes of files k, k+n, … for part (k, n). Empty: nothing."""
    try:
        text = (folder / MANIFEST).read_text()
        content = json.loads(text)
        content.pop("manifest_sha256", None)
        assert content["format"] == FORMAT, f"format {content['format']}, this trainer reads {FORMAT}"
        assert text == _text(content), "its content has changed since it was written"
        files = {name: (int(v["bytes"]), str(v["sha256"])) for name, v in content["files"].items()}
    except FileNotFoundError:
        return [f"{MANIFEST}: missing, the save was never finished"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        return [f"{MANIFEST}: not readable ({error})"]
    found = []
    if folder.name != folder_name(content["step"]):
        found.append(f"{MANIFEST}: of step {content['step']}, in folder {folder.name}")
    for name, (nbytes, _) in files.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute() or path.is_symlink():
            found.append(f"{name}: outside the folder or a link")
        elif not path.is_file():
            found.append(f"{name}: missing")
        elif (size := path.stat().st_size) != nbytes:
            found.append(f"{name}: {size} bytes, {nbytes} were written")
    if found:
        return found
    present = (str(p.relative_to(folder)) for p in folder.rglob("*.safetensors"))
    found += [f"{name}: not in the manifest" for name in sorted(present) if name not in files]
    mine = sorted(files)[part[0] :: part[1]]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found += [fault for fault in pool.map(lambda n: _content_fault(folder / n, n, files[n][1]), mine) if fault]
    return found


def _content_fault(path: Path, name: str, expected: str) -> str:
    try:
        with as_os_errors(path):
            digest = sha256(path)
    except OSError as error:  # a disk that cannot read it back
        return f"{name}: cannot be read ({error.strerror or error})"
    same = digest == expected
    return "" if same else f"{name}: its content has changed since it was written (sha256 {digest[:12]}…, not {expected[:12]}…)"


def verify(folder: Path, world: World) -> list[str]:
    """faults_of, the hashing shared among the ranks; the same answer on all."""
    return sorted({f for faults in world.gather(faults_of(folder, (world.rank, world.size))) for f in faults})
