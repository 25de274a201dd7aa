"""Folders elsewhere (s3://, gs://, hf://, file:// … by fsspec) as inputs and as the output of `prepare corpus`.

inputs: URLs of files, folders and patterns → `expand` → URLs of files
output: made in a folder under --work → `upload`: shards, then manifests → nothing left under --work
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from data_tools.corpus.records import READERS, suffix_of
from data_tools.files.atomic import write_atomically
from data_tools.files.places import filesystem, is_remote, matches
from data_tools.shards.format import MANIFEST
from data_tools.work.progress import Progress
from data_tools.work.workplace import PrepareError, claimed, clear

UPLOADED = "uploaded.json"  # names of the files that are there, whole


def expand(words: list[str]) -> list[str]:
    """URLs of folders and patterns → URLs of their files by name, file:// → local paths, other words as they are. Raises PrepareError."""
    from fsspec.implementations.local import LocalFileSystem

    found: list[str] = []
    for word in words:
        if not is_remote(word) or "::" in word:
            found.append(word)
            continue
        fs, inner = filesystem(word)
        fs.invalidate_cache()  # what is there now
        if isinstance(fs, LocalFileSystem):
            found += matches(inner) or [inner]
        elif fs.isfile(inner):
            found.append(word)
        else:
            names = sorted(fs.find(inner) if fs.isdir(inner) else fs.glob(inner) if any(sign in inner for sign in "*?[") else [])
            readable = [name for name in names if suffix_of(name) in READERS and "/." not in name.removeprefix(inner)]
            if not readable:
                raise PrepareError(f"{word}: no such file, or no file of a readable kind there ({', '.join(READERS)})")
            sides = {side for name in readable for side in ("train", "heldout") if name.rpartition("/")[2].startswith(side)}
            if len(sides) == 2:
                raise PrepareError(f"{word}: holds heldout and train files; name those of one side, e.g. '…/train-*.jsonl.gz'")
            found += [fs.unstrip_protocol(name) for name in readable]
    return found


def local_folder(out: str, work: str | None) -> Path:
    """Where OUT is made. Raises PrepareError when a remote one has no --work, or a local one has."""
    if not is_remote(out):
        if work:
            raise PrepareError(f"--work {work}: is for a remote --out; {out} is made in its place")
        return Path(out)
    filesystem(out)  # a missing package is told before the work, not behind it
    if not work or is_remote(work):
        raise PrepareError(f"--out {out}: a remote folder needs --work DIR, a local (or shared) folder in which it is made")
    return Path(work) / (re.sub(r"[^\w.-]+", "-", out).strip("-") + ".upload")


def read_manifests(out: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """The manifests there, by name of the split ("" for shards without). Raises PrepareError when a shard beside one is not whole."""
    fs, inner = filesystem(out)
    sizes, found = _sizes(fs, inner), {}
    for name in dict.fromkeys(["", "train", *names]):
        folder = f"{inner}/{name}".rstrip("/")
        if f"{folder}/{MANIFEST}" not in sizes:
            continue
        try:
            found[name] = json.loads(fs.cat_file(f"{folder}/{MANIFEST}"))
            for entry in found[name]["shards"]:
                if sizes.get(f"{folder}/{entry['file']}") != entry["bytes"]:
                    raise PrepareError(f"{out}: {name}/{entry['file']} is not as its manifest says; delete {out} to make it anew")
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, PrepareError):
                raise
            raise PrepareError(f"{out}: {name}/{MANIFEST} cannot be read ({error!r}); delete {out} to make it anew") from None
    return found


def upload(folder: Path, out: str, names: list[str]) -> None:
    """Finished shards under `folder` → OUT, every manifest behind all shards; then remove `folder`. Goes on where a killed one was."""
    fs, inner = filesystem(out)
    manifests = [f"{name}/{MANIFEST}".lstrip("/") for name in names]
    shards = [
        f"{name}/{entry['file']}".lstrip("/")
        for name, manifest in zip(names, manifests)
        for entry in json.loads((folder / manifest).read_bytes())["shards"]
    ]
    with claimed(folder) as lock:
        kept, there = folder / UPLOADED, _sizes(fs, inner)
        if not kept.exists() and (strange := sorted(name for name in there if name.endswith((".arrow", MANIFEST)))):
            raise PrepareError(
                f"{fs.unstrip_protocol(strange[0])}: not of an unfinished run of this command; name another --out, or delete it"
            )
        sizes = {name: (folder / name).stat().st_size for name in [*shards, *manifests]}
        done: list[str] = json.loads(kept.read_bytes()) if kept.exists() else []
        done = [name for name in done if there.get(f"{inner}/{name}") == sizes[name]]
        write_atomically(kept, json.dumps(done).encode())
        with Progress("upload", sum(sizes.values()), unit="B") as progress:
            for name, size in sizes.items():
                if name not in done:
                    _put(fs, folder / name, f"{inner}/{name}", size)
                    done.append(name)
                    write_atomically(kept, json.dumps(done).encode())
                progress.show(sum(sizes[name] for name in done))
        clear(lock)
        shutil.rmtree(folder)
    print(f"made {out}: {len(shards)} shards and {', '.join(manifests)}, uploaded, {sum(sizes.values()) / 1e6:,.1f} MB")


def _put(fs: Any, source: Path, target: str, size: int) -> None:
    try:
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(source), target)
    except OSError as error:
        raise PrepareError(f"{target}: cannot be written ({error}); put that right and start the same command again") from error
    fs.invalidate_cache()
    if fs.size(target) != size:
        raise PrepareError(f"{target}: does not have the {size} bytes just written; start the same command again")


def _sizes(fs: Any, folder: str) -> dict[str, int]:
    """Every file below a folder, as it is now; none where there is no folder."""
    fs.invalidate_cache()
    return {name: info["size"] for name, info in fs.find(folder, detail=True).items()}
