"""A build lock left by a killed process does not stop the next start; one that is held is left alone."""

import os
import time

from torch.utils.file_baton import FileBaton

from train.world import jit_lock
from train.world.jit_lock import clear_stale


def test_a_lock_nobody_holds_is_removed_and_a_held_one_is_not(tmp_path):
    for name in ("held", "stale"):
        (tmp_path / "py311_cpu" / name).mkdir(parents=True)
    held, stale = (tmp_path / "py311_cpu" / n / "lock" for n in ("held", "stale"))
    baton = FileBaton(str(held))  # torch's own lock
    assert baton.try_acquire()
    stale.touch()
    assert clear_stale(tmp_path, one_node=True) == [stale]
    assert held.exists() and not stale.exists()
    baton.release()


def test_on_several_nodes_only_an_old_lock_is_taken_for_stale(tmp_path):
    (tmp_path / "op").mkdir()
    lock = tmp_path / "op" / "lock"
    lock.touch()
    assert clear_stale(tmp_path, one_node=False) == []
    os.utime(lock, (time.time() - 3600,) * 2)
    assert clear_stale(tmp_path, one_node=False) == [lock]


def test_a_lock_taken_again_while_it_is_looked_for_is_left_to_its_new_holder(tmp_path, monkeypatch):
    (tmp_path / "op").mkdir()
    lock = tmp_path / "op" / "lock"
    baton = FileBaton(str(lock))
    assert baton.try_acquire()

    def meanwhile() -> set[str]:  # its holder is done, and another process builds next, after its files were looked at
        baton.release()
        (tmp_path / "op" / "other").touch()
        lock.touch()
        return set()

    monkeypatch.setattr(jit_lock, "_open_files", meanwhile)
    assert clear_stale(tmp_path, one_node=True) == [] and lock.exists()


def test_two_installations_build_in_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    here = jit_lock.extensions_folder()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert jit_lock.extensions_folder() != here and jit_lock.extensions_folder().parent == here.parent
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert jit_lock.use_extensions_folder() == tmp_path
