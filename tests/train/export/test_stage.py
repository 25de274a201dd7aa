"""An export that is killed, out of space or started twice: nothing visible, nothing lost, the same bytes in the end."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from launch.export_hf import main
from tests.made import checkpoints, processes
from tests.made.checkpoints import files_of
from train.export import exporter as export
from train.export import plan as export_plan
from train.model_files import writer as safetensors_writer

# the door in a process of its own, in small files; KILL dies at that write, PACE makes writes slow enough to be hit
PROGRAM = """
import os, resource, signal, sys, time
from train.export import plan as export_plan
from train.model_files import writer as safetensors_writer
from launch.export_hf import main
export_plan.MAX_FILE_BYTES = 40_000
kill, pace, limit = int(os.environ["KILL"]), float(os.environ["PACE"]), int(os.environ["LIMIT"])
put, calls = safetensors_writer.Writer._put, [0]
def counted(self, data):
    calls[0] += 1
    time.sleep(pace)
    if calls[0] == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, data)
safetensors_writer.Writer._put = counted
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(export_plan, "MAX_FILE_BYTES", 40_000)


@pytest.fixture(scope="module")
def step(tmp_path_factory) -> Path:
    return checkpoints.checkpoint(tmp_path_factory.mktemp("run"), 2, seed=1, dtype=torch.float32)


def door(*arguments: object, kill: int = 0, pace: float = 0, limit: int = 0) -> tuple[list, dict]:
    """The command, and how it is started."""
    return [sys.executable, "-c", PROGRAM, *arguments], {"env": os.environ | {"KILL": str(kill), "PACE": str(pace), "LIMIT": str(limit)}}


def run(*arguments: object, **how: float) -> subprocess.CompletedProcess:
    words, options = door(*arguments, **how)
    return processes.run(words, **options)


def uncut(step: Path, out: Path, *more: str) -> dict[str, bytes]:
    assert main([str(step), str(out), *more]) == 0
    found = files_of(out)
    assert sum(name.startswith("model-") for name in found) >= (2 if "fp32" in more else 4)
    return found


class Counted:
    """Bytes that went to files."""

    def __init__(self, monkeypatch, fail_at: int = 0, error: OSError | None = None):
        put, self.calls = safetensors_writer.Writer._put, 0

        def counted(writer, data):
            self.calls += 1
            if self.calls == fail_at:
                raise error
            put(writer, data)

        monkeypatch.setattr(safetensors_writer.Writer, "_put", counted)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [1, 9, 17, 24])
def test_a_killed_export_goes_on_and_ends_with_the_same_bytes(step, tmp_path, kill):
    (tmp_path / "cut").mkdir()
    out = tmp_path / "cut" / "out"
    died = run(step, out, kill=kill)
    assert died.returncode == -signal.SIGKILL and not out.exists()
    assert [p.name for p in out.parent.iterdir()] == [".out.export"]
    assert main([str(step), str(out)]) == 0
    assert files_of(out) == uncut(step, tmp_path / "uncut" / "out")
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_finished_files_are_kept_and_not_written_again(step, tmp_path, monkeypatch, capsys):
    everything = Counted(monkeypatch)
    uncut(step, tmp_path / "uncut")
    whole = everything.calls
    monkeypatch.undo()
    monkeypatch.setattr(export_plan, "MAX_FILE_BYTES", 40_000)
    Counted(monkeypatch, whole - 1, OSError(errno.EIO, os.strerror(errno.EIO)))
    assert main([str(step), str(tmp_path / "out")]) == 1
    text = capsys.readouterr().err
    assert "Input/output error" in text and "the same command goes on from there" in text
    monkeypatch.undo()
    monkeypatch.setattr(export_plan, "MAX_FILE_BYTES", 40_000)
    rest = Counted(monkeypatch)
    assert main([str(step), str(tmp_path / "out")]) == 0
    assert rest.calls < whole / 2 and "files kept from before" in capsys.readouterr().out
    assert files_of(tmp_path / "out") == files_of(tmp_path / "uncut")


def half_made(step: Path, out: Path, monkeypatch) -> Path:
    with monkeypatch.context() as m:
        Counted(m, 18, OSError(errno.EIO, "x"))
        assert main([str(step), str(out)]) == 1
    aside = out.parent / f".{out.name}.export"
    assert sum(p.name.startswith("model-") for p in aside.iterdir()) >= 2
    return aside


def test_a_finished_file_that_has_changed_is_written_again(step, tmp_path, monkeypatch):
    aside = half_made(step, tmp_path / "out", monkeypatch)
    first = sorted(aside.glob("model-*"))[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    (aside / first.name.replace("00001", "00099", 1)).write_bytes(b"left by somebody")
    assert main([str(step), str(tmp_path / "out")]) == 0
    assert files_of(tmp_path / "out") == uncut(step, tmp_path / "uncut" / "out")


def test_another_source_or_dtype_starts_over(step, tmp_path, monkeypatch):
    other = checkpoints.checkpoint(tmp_path / "run", 2, seed=5, dtype=torch.float32)
    half_made(step, tmp_path / "out", monkeypatch)
    assert main([str(other), str(tmp_path / "out")]) == 0
    assert files_of(tmp_path / "out") == uncut(other, tmp_path / "uncut" / "out")
    half_made(step, tmp_path / "out2", monkeypatch)
    assert main([str(step), str(tmp_path / "out2"), "--dtype", "fp32"]) == 0
    assert files_of(tmp_path / "out2") == uncut(step, tmp_path / "uncut" / "out2", "--dtype", "fp32")


def test_a_source_that_changed_meanwhile_starts_over(tmp_path, monkeypatch, capsys):
    folder = checkpoints.model_folder(tmp_path / "model", 1)
    half_made(folder, tmp_path / "out", monkeypatch)
    for name, seed in (("model", 1), ("other", 2)):
        checkpoints.save_in_files(folder, checkpoints.masters_of(seed), 1) if name == "other" else None
    assert main([str(folder), str(tmp_path / "out")]) == 0 and "kept from before" not in capsys.readouterr().out
    assert torch.equal(checkpoints.weights_of(tmp_path / "out")["lm_head.weight"], checkpoints.masters_of(2)["lm_head.weight"].bfloat16())


def test_killed_between_the_last_file_and_the_rename_it_is_not_written_again(step, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr("os.rename", lambda a, b: (_ for _ in ()).throw(OSError(errno.EIO, "x")) if Path(b).name == "out" else os.replace(a, b))
        assert main([str(step), str(tmp_path / "out")]) == 1
    assert "plan.json" not in os.listdir(tmp_path / ".out.export") and not (tmp_path / "out").exists()
    again = Counted(monkeypatch)
    assert main([str(step), str(tmp_path / "out")]) == 0 and again.calls == 0
    assert files_of(tmp_path / "out") == uncut(step, tmp_path / "uncut" / "out")


@pytest.mark.slow
def test_two_exports_to_one_folder_at_once_are_refused(step, tmp_path, capsys):
    words, options = door(step, tmp_path / "out", pace=0.3)
    first = processes.start(words, **options)
    try:
        processes.wait_until((tmp_path / ".out.export" / "plan.json").exists, first)
        assert main([str(step), str(tmp_path / "out")]) == 1
        assert "another process makes it now" in capsys.readouterr().err
        assert (tmp_path / ".out.export" / "plan.json").exists()
    finally:
        processes.end(first)


@pytest.mark.slow
def test_ctrl_c_leaves_what_is_finished_for_the_same_command(step, tmp_path):
    words, options = door(step, tmp_path / "out", pace=0.1)
    first = processes.start(words, **options)
    processes.wait_until(lambda: list((tmp_path / ".out.export").glob("model-00002*.safetensors")), first)
    first.send_signal(signal.SIGINT)
    _, text = first.communicate(timeout=processes.SECONDS)
    assert first.returncode == 130 and "the same command goes on" in text and "Traceback" not in text
    assert main([str(step), str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_what_to_free_and_keeps_what_is_finished(step, tmp_path, monkeypatch, capsys, number):
    with monkeypatch.context() as m:
        Counted(m, 18, OSError(number, os.strerror(number)))
        assert main([str(step), str(tmp_path / "out")]) == 1
    text = capsys.readouterr().err
    assert os.strerror(number) in text and "free 0.00 GB on the disk of" in text and " files are finished in " in text
    assert len(text.strip().splitlines()) == 1
    assert not list((tmp_path / ".out.export").glob("*.part")), "what is half written gives its space back"
    assert main([str(step), str(tmp_path / "out")]) == 0


@pytest.mark.slow
def test_a_file_size_limit_of_the_system_ends_in_one_message(step, tmp_path):
    done = run(step, tmp_path / "out", limit=20_000)
    assert done.returncode == 1 and "File too large" in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    assert main([str(step), str(tmp_path / "out")]) == 0


def test_a_disk_without_room_is_told_before_a_byte_is_written(step, tmp_path, monkeypatch, capsys):
    usage = export.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as m:
        m.setattr(export.shutil, "disk_usage", lambda p: usage._replace(free=1000))
        written = Counted(m)
        assert main([str(step), str(tmp_path / "out")]) == 1 and written.calls == 0
    assert "GB are still to be written, 0.00 GB are free" in capsys.readouterr().err


@pytest.mark.soak
def test_twenty_kills_at_random_moments_end_with_the_same_bytes(step, tmp_path):
    chance = random.Random(3)
    wanted = uncut(step, tmp_path / "uncut" / "out")
    out, kills = tmp_path / "cut" / "out", 0
    out.parent.mkdir()
    while kills < 20:
        words, options = door(step, out, pace=0.05)
        process = processes.start(words, **options)
        time.sleep(chance.uniform(0.8, 4.5))
        processes.end(process)
        kills += 1
        if out.exists():
            assert files_of(out) == wanted
            for path in out.iterdir():
                path.unlink()
            out.rmdir()
        assert {p.name for p in out.parent.iterdir()} <= {".out.export"}
    assert main([str(step), str(out)]) == 0 and files_of(out) == wanted


def test_a_plan_that_is_rubbish_starts_over(step, tmp_path):
    aside = tmp_path / ".out.export"
    for text in ("", "[]", json.dumps({"files": []}), json.dumps({"request": 1, "files": {"model-1.safetensors": {}}})):
        aside.mkdir()
        (aside / "plan.json").write_text(text)
        out = tmp_path / "out"
        assert main([str(step), str(out)]) == 0
        out.rename(tmp_path / f"out-{len(text)}")


def test_every_file_is_synced_before_the_folder_appears(step, tmp_path, monkeypatch):
    synced, at_rename = set(), {}
    fsync, rename = os.fsync, os.rename

    def spy_fsync(fd):
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    def spy_rename(a, b):
        if Path(b).name == "out":
            at_rename.update({p.name: p.stat().st_ino in synced for p in Path(a).iterdir()})
            at_rename["the folder"] = Path(a).stat().st_ino in synced
        rename(a, b)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "rename", spy_rename)
    assert main([str(step), str(tmp_path / "out")]) == 0
    assert len(at_rename) > 8 and all(at_rename.values()), at_rename
    assert tmp_path.stat().st_ino in synced


def test_what_does_not_read_back_as_it_was_written_is_not_published(step, tmp_path, monkeypatch, capsys):
    close = safetensors_writer.Writer.close

    def lossy(writer):
        done = close(writer)
        with writer.path.open("r+b") as f:
            f.truncate(writer.bytes - 2)
        return done

    monkeypatch.setattr(safetensors_writer.Writer, "close", lossy)
    assert main([str(step), str(tmp_path / "out")]) == 1
    assert "the copy was cut short" in capsys.readouterr().err and not (tmp_path / "out").exists()
