"""Who this process is: what it needs of an environment that ssh left bare."""

import os
import sys

import pytest

from tests.made import processes

pytestmark = pytest.mark.slow


def test_the_ninja_beside_this_python_is_found_with_the_bare_path_of_ssh():
    show = "import shutil; from train.world.ranks import World; World.from_env(); print(shutil.which('ninja'))"
    bare = {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"]}
    found = processes.run([sys.executable, "-c", show], env=bare, check=True).stdout.strip()
    assert found == os.path.join(os.path.dirname(sys.executable), "ninja")


@pytest.mark.parametrize(("device", "bound", "asked"), [("cuda:1", None, [[1]]), ("cuda:1", "cuda:1", []), ("cpu", None, [])])
def test_nccl_is_told_which_gpu_is_this_ranks_where_deepspeed_did_not(device, bound, asked, monkeypatch):
    import types
    import warnings

    import torch
    import torch.distributed as dist

    from train.world.ranks import World

    named = []
    monkeypatch.setattr(dist, "group", types.SimpleNamespace(WORLD=types.SimpleNamespace(bound_device_id=bound)))
    monkeypatch.setattr(dist, "barrier", lambda device_ids: named.append(device_ids))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        World(0, 1, 1, torch.device(device))._name_device()
        warnings.warn("barrier(): using the device under current context. You can specify `device_id`", stacklevel=1)
    assert named == asked and bool(shown) == (not asked)
