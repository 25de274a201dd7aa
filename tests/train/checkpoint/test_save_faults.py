"""R5, R20: disks that fail and ranks that die at every point of a save, in the foreground and behind the steps."""

import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.made import processes, tiny
from tests.made.failing_disk import FailingDisk, dies, fails_with
from tests.made.ranks import RankFailed, run_ranks
from tests.train.run.test_loop import checkpoint_of, losses_of, one_run
from train.checkpoint import find, layout
from train.checkpoint import folder as checkpoint
from train.checkpoint.manifest import faults_of
from train.checkpoint.state import read_state

pytestmark = pytest.mark.slow

STEPS = 5
ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
POINTS = 10


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("faults"))
    tiny.write_recipe(folder, steps=STEPS, checkpoint={"every_steps": 1, "keep_last": 9})
    run_ranks(one_run, 2, folder / "recipe.yaml", ["name=uncut"])
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    """Weights and trainer slices of a checkpoint."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def engine_at(world, recipe_path: Path, folder: Path):
    from train.checkpoint import trainer_state
    from train.engine.zero3 import start
    from train.recipe.load import load

    engine, _, _ = start(load(recipe_path), world, folder, 1)
    trainer_state.load(engine, folder, world)
    return trainer_state.live(engine)


def save_once(world, slices, root: Path, source: Path) -> str:
    """Save step 3 into root; what was said."""
    state = read_state(source)
    state.pop("format")
    try:
        checkpoint.save(slices, root, checkpoint.Extras(state, source), world)
    except checkpoint.CheckpointError as error:
        return str(error)
    return "saved"


def every_point(world, recipe_path: Path, source: Path, root: Path) -> list[tuple[int, int, int, str, list[str]]]:
    """Fail at points spread over a whole save, on each rank, with each error: (rank, errno, point, message, what is wrong afterwards)."""
    slices = engine_at(world, recipe_path, source)
    with FailingDisk(root) as disk:
        said = save_once(world, slices, root, source)
        assert said == "saved", said
    counts = world.gather(disk.count)
    seen = []
    for victim, count in enumerate(counts):
        for number in ERRNOS:
            for k in range(POINTS):
                point = 1 + round(k * (count - 1) / (POINTS - 1))
                at = point if world.rank == victim else None
                with FailingDisk(root, at, fails_with(number)):
                    said = save_once(world, slices, root, source)
                world.barrier()
                wrong = [f"{p.name}: {f}" for p in root.glob("step_*") if layout.STEP.match(p.name) for f in faults_of(p)]
                wrong += [f"{p.name} is left" for p in root.glob("*.tmp-*")]
                wrong += [] if (root / "step_000002").is_dir() else ["step_000002 is gone"]
                seen.append((victim, number, point, said, wrong))
                world.barrier()
    said = save_once(world, slices, root, source)
    assert said == "saved", said
    return seen


def test_a_disk_that_fails_at_any_point_on_any_rank_ends_the_save_on_all_and_harms_nothing(ground, tmp_path):
    root = tmp_path / "checkpoints"
    shutil.copytree(checkpoint_of(ground, 2), root / "step_000002")
    first, second = run_ranks(every_point, 2, ground / "recipe.yaml", checkpoint_of(ground, 3), root)
    assert len(first) == 2 * len(ERRNOS) * POINTS and [s[3] for s in first] == [s[3] for s in second]
    for victim, number, point, said, wrong in first:
        assert f"the checkpoint was not written: rank {victim}: {os.strerror(number)}" in said, (victim, number, point, said)
        assert ("free space" in said) == (number in (errno.ENOSPC, errno.EDQUOT)), said
        assert ("read-only: mount it" in said) == (number == errno.EROFS), said
        assert not wrong, (victim, number, point, wrong)
    assert content_of(root / "step_000003") == content_of(checkpoint_of(ground, 3))


def small_filesystems(world, recipe_path: Path, source: Path, previous: Path, mounts: list[Path]) -> list[tuple[str, list[str]]]:
    slices = engine_at(world, recipe_path, source)
    seen = []
    for mount in mounts:
        said = save_once(world, slices, mount / "c", source)
        seen.append((said, faults_of(mount / "c" / "step_000002")))
    return seen


def test_a_real_filesystem_that_is_full_at_any_file_leaves_the_checkpoint_before(ground, tmp_path):
    """tmpfs with so few inodes that the n-th file of the save cannot be made; space in bytes there is, so no check can see it."""
    mounts = []
    previous = checkpoint_of(ground, 2)
    needed = len(list(previous.rglob("*"))) + 4
    try:
        for free in range(10):
            mount = tmp_path / f"m{free}"
            mount.mkdir()
            options = f"size=8m,nr_inodes={needed + free}"
            if processes.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)]).returncode:
                pytest.skip("small filesystems need the right to mount")
            mounts.append(mount)
            shutil.copytree(previous, mount / "c" / "step_000002")
        processes.run(["mount", "-o", "remount,ro", str(mounts[-1])], check=True)
        first, second = run_ranks(small_filesystems, 2, ground / "recipe.yaml", checkpoint_of(ground, 3), previous, mounts)
    finally:
        for mount in mounts:
            processes.run(["umount", str(mount)], check=False)
    assert [s for s, _ in first] == [s for s, _ in second]
    assert all(not wrong for _, wrong in first)
    assert all("No space left on device" in said and "free space" in said for said, _ in first[:-1])
    assert "turned read-only" in first[-1][0]


def run_until_it_dies(world, recipe_path: Path, overrides: list[str], victim: int, at: int | None, delay: float) -> int:
    root = Path(recipe_path).parent / "runs" / overrides[0].removeprefix("name=") / "checkpoints"
    with FailingDisk(root, at if world.rank == victim else None, dies(delay)) as disk:
        one_run(world, recipe_path, overrides)
    return disk.count


def kill(ground: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill a random rank at a random write of a run, go on, kill again …; every published folder must be the uncut run's, bit by bit."""
    rng = random.Random(seed)
    seen = {"killed": 0, "folders compared": 0}
    name, attempt, counts = "", 0, None
    while seen["killed"] < kills:
        background = rng.random() < 0.5
        if not name:
            attempt += 1
            name = f"killed{seed}_{attempt}"
        overrides = [f"name={name}", f"checkpoint.background={str(background).lower()}"]
        if counts is None:
            counts = run_ranks(run_until_it_dies, 2, ground / "recipe.yaml", [f"name=counted{seed}"], 0, None, 0.0)
        victim = rng.randrange(2)
        at, delay = rng.randint(1, counts[victim]), rng.choice((0.0, 0.002, 0.02, 0.2))
        root = ground / "runs" / name / "checkpoints"
        try:
            run_ranks(run_until_it_dies, 2, ground / "recipe.yaml", overrides, victim, at, delay)
            finished = True
        except RankFailed as error:
            assert "exit code -9" in str(error) or "Connection closed by peer" in str(error) or "reset by peer" in str(error), error
            finished = False
            seen["killed"] += 1
        for folder in find.steps_in(root).values():
            assert faults_of(folder) == [], f"{folder} looks complete and is not"
            assert content_of(folder) == content_of(checkpoint_of(ground, int(folder.name[5:])))
            seen["folders compared"] += 1
        if finished:
            assert losses_of(ground / "runs" / name) == losses_of(ground / "runs" / "uncut")
            assert not list(root.glob("*.tmp-*"))
            shutil.rmtree(ground / "runs" / name)
            name = ""
    if name:
        run_ranks(one_run, 2, ground / "recipe.yaml", [f"name={name}"])
        assert losses_of(ground / "runs" / name) == losses_of(ground / "runs" / "uncut")
        assert content_of(checkpoint_of(ground, STEPS, name)) == content_of(checkpoint_of(ground, STEPS))
    return seen


def test_kill_9_at_any_write_loses_nothing_and_the_run_ends_as_if_uncut(ground):
    seen = kill(ground, kills=4, seed=3)
    assert seen["killed"] == 4


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_kills_at_random_writes_and_moments(ground):
    total = {"killed": 0, "folders compared": 0}
    for seed in range(100, 110):
        for key, value in kill(ground, kills=20, seed=seed).items():
            total[key] += value
    print(total)
    assert total["killed"] == 200 and total["folders compared"] > 200
