"""Checkpoints on an S3-compatible store, over HTTP, in a process of its own: complete or invisible, resumed from, cleaned up."""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.made import processes, tiny
from tests.made.failing_disk import dies
from tests.made.ranks import RankFailed, run_ranks
from tests.train.run.test_loop import checkpoint_of, losses_of, one_run

pytestmark = pytest.mark.slow

STEPS = 4
pytest.importorskip("moto", reason="the S3-compatible server of the tests is not installed")


@pytest.fixture(scope="module")
def store():
    """A bucket; its server is told to the ranks as a user would, by environment."""
    import urllib.request

    port = processes.free_port()
    server = processes.start([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], **processes.QUIET)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "canary-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",  # a store that is not there is asked twice, not five times with growing pauses
    }
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        from train.world.places import place

        place("s3://bucket").fs.mkdir("bucket")
        yield settings
    finally:
        processes.end(server)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("store"))
    tiny.write_recipe(folder, steps=STEPS, checkpoint={"every_steps": 1, "keep_last": 9})
    run_ranks(one_run, 2, folder / "recipe.yaml", ["name=uncut"])
    return folder


def run_there(world, settings: dict[str, str], recipe: Path, overrides: list[str], resume: str = "auto"):
    os.environ.update(settings)
    return one_run(world, recipe, ["checkpoint.to=s3://bucket/runs", *overrides], resume)


def names_in(name: str) -> set[str]:
    from train.world.places import place

    root = place(f"s3://bucket/runs/{name}")
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


def test_a_run_saves_to_a_store_goes_on_from_it_and_deletes_there(ground, store, tmp_path):
    from train.checkpoint.manifest import faults_of
    from train.world.places import place

    rules = ["name=there", "checkpoint.keep_last=1", "checkpoint.keep_best=0"]
    run_ranks(run_there, 2, store, ground / "recipe.yaml", [*rules, "checkpoint.background=true"])
    root = place("s3://bucket/runs/there")
    assert {n.split("/")[0] for n in names_in("there")} == {"latest", f"step_{STEPS:06d}"}
    assert faults_of(root / f"step_{STEPS:06d}") == []
    mine = {str(p.relative_to(checkpoint_of(ground, STEPS))) for p in checkpoint_of(ground, STEPS).rglob("*") if p.is_file()}
    assert {n.partition("/")[2] for n in names_in("there") if n.startswith("step")} == mine
    for name in (n for n in mine if n.endswith(".safetensors")):
        assert (root / f"step_{STEPS:06d}" / name).read_bytes() == (checkpoint_of(ground, STEPS) / name).read_bytes(), name
    # longer, and at another world size
    run_ranks(run_there, 1, store, ground / "recipe.yaml", [*rules, f"steps={STEPS + 1}", "checkpoint.allow=[steps]"])
    assert max(losses_of(ground / "runs" / "there")) == STEPS + 1
    assert {n.split("/")[0] for n in names_in("there")} == {"latest", f"step_{STEPS + 1:06d}"}


def test_a_checkpoint_on_a_store_is_exported_like_one_on_a_disk(ground, store, tmp_path, capsys):
    from launch.export_hf import main
    from train.world.places import place

    run_ranks(run_there, 2, store, ground / "recipe.yaml", ["name=public"])
    step, there = checkpoint_of(ground, STEPS), f"s3://bucket/runs/public/step_{STEPS:06d}"

    def same(one: str, other: str) -> bool:
        names = {p.name for p in (tmp_path / one).iterdir()}
        assert names == {p.name for p in (tmp_path / other).iterdir()} and "tokenizer.json" in names
        names -= {"export.json", "README.md"}  # which say where it was made from
        return all((tmp_path / one / name).read_bytes() == (tmp_path / other / name).read_bytes() for name in names)

    for dtype, more in (("bf16", []), ("fp32", ["--check"])):
        assert main([str(step), str(tmp_path / f"here-{dtype}"), "--dtype", dtype]) == 0
        assert main([there, str(tmp_path / f"over-{dtype}"), "--dtype", dtype, *more]) == 0
        assert same(f"here-{dtype}", f"over-{dtype}")
    average = ["--average", "1", str(STEPS)]
    assert main([str(step.parent), str(tmp_path / "here-mean"), *average]) == 0
    assert main(["s3://bucket/runs/public", str(tmp_path / "over-mean"), *average]) == 0
    assert same("here-mean", "over-mean") and not same("here-mean", "here-bf16")
    assert main([str(step), str(tmp_path / "merged"), "--merge", f"{there}:0.5"]) == 0
    assert same("merged", "here-bf16")
    place("s3://bucket").fs.put(str(tmp_path / "here-bf16"), "bucket/plain", recursive=True)  # a folder that is no checkpoint
    assert main(["s3://bucket/plain", str(tmp_path / "plain")]) == 0
    assert same("plain", "here-bf16")

    # a changed byte is found there too, and nothing is made
    [file] = place(there).glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    capsys.readouterr()
    assert main([there, str(tmp_path / "no")]) == 1
    assert f"{file.name}: content has changed" in capsys.readouterr().err
    assert not (tmp_path / "no").exists() and not list(tmp_path.glob(".no*"))


def test_an_export_from_a_store_that_is_out_of_reach_is_one_message(store, tmp_path, capsys, monkeypatch):
    from launch.export_hf import main
    from train.world.places import place

    assert main(["s3://bucket/runs/nobody", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: s3://bucket/runs/nobody: no such folder") and error.count("\n") == 1
    place("s3://bucket/theirs/latest").write_bytes(b"global_step1")
    assert main(["s3://bucket/theirs", str(tmp_path / "out")]) == 1
    assert "s3://bucket/theirs: a folder that DeepSpeed saved is read from a disk only; copy it" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert main(["s3://elsewhere/runs", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "canary-secret" not in error and not (tmp_path / "out").exists()


def killed_there(world, settings: dict[str, str], recipe: Path, overrides: list[str], victim: int, at: int) -> int:
    """Rank `victim` dies at its at-th write to the store."""
    import upath

    from train.model_files.writer import Writer

    count = [0]

    def before(original):
        def call(self, *args):
            count[0] += world.rank == victim
            if count[0] == at:
                dies()("")
            return original(self, *args)

        return call

    Writer._put = before(Writer._put)
    upath.UPath.write_bytes = before(upath.UPath.write_bytes)
    run_there(world, settings, recipe, overrides)
    return count[0]


def test_a_save_killed_while_it_writes_to_a_store_is_invisible_and_the_run_goes_on(ground, store):
    from train.checkpoint.find import steps_in
    from train.checkpoint.manifest import faults_of
    from train.world.places import place

    root = place("s3://bucket/runs/killed")
    invisible = 0
    for victim, at in ((0, 30), (1, 80), (0, 44), (0, 61)):
        with pytest.raises(RankFailed):
            run_ranks(killed_there, 2, store, ground / "recipe.yaml", ["name=killed"], victim, at)
        published = steps_in(root)
        assert all(faults_of(p) == [] for p in published.values())
        folders = {p.name for p in root.iterdir() if p.name.startswith("step_")} if root.is_dir() else set()
        invisible += bool(folders - {p.name for p in published.values()})
    assert invisible, "no kill left half a checkpoint; nothing was tried"
    run_ranks(run_there, 2, store, ground / "recipe.yaml", ["name=killed"])
    assert losses_of(ground / "runs" / "killed") == losses_of(ground / "runs" / "uncut")
    assert all(faults_of(p) == [] for p in steps_in(root).values()) and len(steps_in(root)) == STEPS
    assert {n.split("/")[0] for n in names_in("killed")} == {"latest", *(p.name for p in steps_in(root).values())}


def test_a_store_that_cannot_be_reached_is_told_in_one_message_before_the_first_step(ground, store):
    with pytest.raises(RankFailed) as error:
        run_ranks(run_there, 1, store | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, ground / "recipe.yaml", ["name=gone"])
    assert "canary-secret" not in str(error.value)


def test_a_url_whose_package_is_missing_says_what_to_install():
    from train.world.places import PlaceError, place

    with pytest.raises(PlaceError, match=r"nowhere://bucket: cannot be opened .*pip install -e '.\[s3\]'"):
        place("nowhere://bucket")


@pytest.mark.soak
def test_an_adapters_run_saves_there_goes_on_from_there_and_is_merged_from_there(store, tmp_path):
    from launch.export_hf import main
    from train.checkpoint.manifest import faults_of
    from train.world.places import place

    folder = tiny.ground(tmp_path)
    rules = {"every_steps": 1, "keep_last": 1, "keep_best": 0}
    tiny.write_recipe(
        folder,
        steps=STEPS,
        checkpoint=rules,
        adapter={"rank": 4, "train_also": ["norms"]},
        optim={"lr": 1e-2},
        schedule={"kind": "constant"},
    )
    run_ranks(one_run, 2, folder / "recipe.yaml", ["name=uncut"])
    run_ranks(run_there, 2, store, folder / "recipe.yaml", ["name=adapter", "steps=2", "checkpoint.background=true"])
    root, step = place("s3://bucket/runs/adapter"), checkpoint_of(folder, STEPS)
    assert {n.split("/")[0] for n in names_in("adapter")} == {"latest", "step_000002"}
    more = ["name=adapter", "checkpoint.allow=[steps]", "checkpoint.background=true"]
    run_ranks(run_there, 2, store, folder / "recipe.yaml", [*more, "steps=3"])
    run_ranks(run_there, 1, store, folder / "recipe.yaml", more)
    there = root / step.name
    assert {n.split("/")[0] for n in names_in("adapter")} == {"latest", step.name} and faults_of(there) == []
    uncut, resumed = losses_of(folder / "runs" / "uncut"), losses_of(folder / "runs" / "adapter")
    assert resumed.keys() == uncut.keys() and all(abs(loss - uncut[k]) <= 1e-6 for k, loss in resumed.items())
    for flags in ([], ["--merge-adapter", "--dtype", "fp32", "--check"]):
        out = tmp_path / f"out{len(flags)}"
        assert main([str(there), str(out), *flags]) == 0
        assert (out / "tokenizer.json").is_file()
    assert {p.name for p in (tmp_path / "out0").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors", "base_model.json"}
    file = there / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert main([str(there), str(tmp_path / "no"), "--merge-adapter"]) == 1 and not (tmp_path / "no").exists()
