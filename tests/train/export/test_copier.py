"""Files that an export takes over unchanged: copied by the kernel or by hand, hashed in the copy, stopped and gone on with."""

import errno
import hashlib
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.export_hf import main
from tests.made import checkpoints, processes
from tests.made.checkpoints import files_of
from train.export import copier as export_copy
from train.export.copier import Copier
from train.model_files.stream import ReadError

KERNEL = export_copy._by_kernel


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(export_copy, "STEP_BYTES", 10_000)
    monkeypatch.setattr(export_copy, "CHUNK_BYTES", 3_000)


@pytest.fixture
def step(tmp_path) -> Path:
    """A checkpoint whose four files have the wanted dtype."""
    return checkpoints.checkpoint(tmp_path / "run", 2, seed=1, dtype=torch.bfloat16, files=4)


def random_files(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / f"in{i}" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(np.random.default_rng(i).bytes(35_001 + i))
    return paths


def no_kernel(*_: object) -> int:
    return 0


@pytest.mark.parametrize("move", [KERNEL, no_kernel], ids=["kernel", "by hand"])
def test_every_byte_is_copied_seen_in_order_and_hashed(tmp_path, monkeypatch, move):
    monkeypatch.setattr(export_copy, "_by_kernel", move)
    sources = random_files(tmp_path)
    targets = [tmp_path / f"out{i}" for i in range(3)]
    with Copier(list(zip(sources, targets, strict=True))) as copier:
        for source, target in zip(sources, targets, strict=True):
            seen: list[tuple[int, bytes]] = []
            got = copier.follow([0, 77, 12_345, 12_345], lambda part, piece, seen=seen: seen.append((part, piece.tobytes())))
            whole = source.read_bytes()
            assert target.read_bytes() == whole and got == (len(whole), hashlib.sha256(whole).hexdigest())
            parts = [b"".join(data for part, data in seen if part == i) for i in range(4)]
            assert parts == [whole[:77], whole[77:12_345], b"", whole[12_345:]] and len(seen) > 10
    assert not any(t.name == "copy" for t in threading.enumerate())


def test_where_the_kernel_cannot_copy_it_is_done_by_hand_from_there_on(tmp_path, monkeypatch):
    def refuses(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refuses)
    [source] = random_files(tmp_path, 1)
    with Copier([(source, tmp_path / "out")]) as copier:
        copier.follow([0], lambda part, piece: None)
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


def test_a_source_that_is_cut_while_it_is_copied_is_named(tmp_path, monkeypatch):
    [source] = random_files(tmp_path, 1)

    def cuts(file, out, nbytes: int) -> int:
        os.truncate(source, 12_000)
        return KERNEL(file, out, nbytes)

    monkeypatch.setattr(export_copy, "_by_kernel", cuts)
    with Copier([(source, tmp_path / "out")]) as copier, pytest.raises(ReadError, match="in0: ends at byte 12000"):
        copier.follow([0], lambda part, piece: None)


def test_a_copy_that_is_not_what_the_manifest_says_is_not_published(step, tmp_path, monkeypatch, capsys):
    """The disk, or the kernel, changes one bit on the way: the source stays as it is."""
    calls = [0]

    def flips(file, out, nbytes: int) -> int:
        calls[0] += 1
        data = bytearray(file.read(nbytes))
        data[-1] ^= calls[0] == 5
        return out.write(data)

    monkeypatch.setattr(export_copy, "_by_kernel", flips)
    assert main([str(step), str(tmp_path / "out")]) == 1
    assert "its content has changed since it was written" in capsys.readouterr().err
    assert calls[0] >= 5 and not (tmp_path / "out").exists() and not (tmp_path / ".out.export").exists()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_full_or_failing_disk_keeps_the_copies_that_are_whole(step, tmp_path, monkeypatch, capsys, error):
    calls = [0]

    def fails(file, out, nbytes: int) -> int:
        calls[0] += 1
        if calls[0] == 14:
            raise OSError(error, os.strerror(error))
        return KERNEL(file, out, nbytes)

    monkeypatch.setattr(export_copy, "_by_kernel", fails)
    assert main([str(step), str(tmp_path / "out")]) == 1
    text = capsys.readouterr().err
    assert (
        f"{os.strerror(error)} while {step}/model-0000" in text
        and "the same command goes on from there" in text
        and not (tmp_path / "out").exists()
    )
    assert ("free 0.00 GB" in text) == (error == errno.ENOSPC)
    kept = sorted(p.name for p in (tmp_path / ".out.export").glob("*.safetensors"))
    assert kept and not list((tmp_path / ".out.export").glob("*.part"))
    again: list[str] = []
    monkeypatch.setattr(export_copy, "_by_kernel", lambda file, out, n: again.append(Path(out.name).name) or KERNEL(file, out, n))
    assert main([str(step), str(tmp_path / "out")]) == 0
    assert again and not {name.removesuffix(".part") for name in again} & set(kept)
    assert main([str(step), str(tmp_path / "uncut")]) == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "uncut")


KILLED = """
import os, signal, sys
from train.export import copier as export_copy
from launch.export_hf import main
export_copy.STEP_BYTES, calls, move = 10_000, [0], export_copy._by_kernel
def dies(*a):
    calls[0] += 1
    if calls[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return move(*a)
export_copy._by_kernel = dies
sys.exit(main(sys.argv[1:3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 5, 11, 16])
def test_a_killed_copy_is_invisible_and_gone_on_with(step, tmp_path, at):
    (tmp_path / "cut").mkdir()
    out = tmp_path / "cut" / "out"
    died = processes.run([sys.executable, "-c", KILLED, str(step), str(out), str(at)])
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [p.name for p in out.parent.iterdir()] == [".out.export"]
    assert main([str(step), str(out)]) == 0
    assert main([str(step), str(tmp_path / "uncut")]) == 0
    assert files_of(out) == files_of(tmp_path / "uncut") and [p.name for p in out.parent.iterdir()] == ["out"]
