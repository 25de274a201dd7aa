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
