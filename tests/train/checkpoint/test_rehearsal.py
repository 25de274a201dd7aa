"""R18: what would kill the last save, or make its folder unusable, is said before step 1, on every rank."""

import json
import shutil
from pathlib import Path

import pytest

from tests.made import tiny
from tests.made.ranks import RankFailed, run_ranks
from tests.train.run.test_loop import many_refused, one_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("rehearsal"))
    tiny.write_recipe(folder, steps=1)
    return folder


def change_json(file: str, **values):
    def change(folder: Path) -> None:
        path = folder / file
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(old | values))

    return change


def added_token(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    new = {
        "id": tiny.VOCAB,
        "content": "<pad>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    tokenizer["added_tokens"].append(new)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


BAD = {
    # as LLaMA-2-chat was published: transformers refuses to save it
    "temperature without sampling": (change_json("generation_config.json", do_sample=False, temperature=0.6, top_p=0.9), "set do_sample to true"),
    "generation config cut short": (lambda f: (f / "generation_config.json").write_text('{"do_sam'), "generation_config.json"),
    "an end token outside the vocabulary": (change_json("generation_config.json", eos_token_id=[2, 32007]), "eos_token_id=32007 is not one of the model's 320"),
    "a bos token outside the vocabulary": (change_json("config.json", bos_token_id=128000), "bos_token_id=128000 is not one of the model's 320"),
    "a quantized config": (change_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "quantization_config"),
    "a tokenizer with foreign code": (change_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}), "tokenizer_config.json: auto_map"),
    "a broken tokenizer config": (lambda f: (f / "tokenizer_config.json").write_text("{"), "tokenizer_config.json: not a JSON object"),
    "a broken chat template": (lambda f: (f / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }"), "chat template: does not render"),
    "a template that refuses": (lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('no') }}"), "chat template: does not render"),
}  # fmt: skip


def test_bad_model_folders_are_refused_before_anything_is_loaded(ground):
    runs = []
    for number, (change, _) in enumerate(BAD.values()):
        folder = ground / f"bad{number}"
        shutil.copytree(ground / "model", folder)
        change(folder)
        # weights that cannot be read would be the next complaint
        (folder / "model.safetensors").write_bytes(b"")
        runs.append(([f"name=bad{number}", f"model.path={folder}"], "auto"))
    told = run_ranks(many_refused, 2, ground / "recipe.yaml", runs)
    assert told[0] == told[1] and len(told[0]) == len(BAD) >= 8
    for (name, (_, expected)), said in zip(BAD.items(), told[0], strict=True):
        assert expected in said and "nothing was started" in said, (name, said)
        assert len(said.splitlines()) == 2, said
    assert not list((ground / "runs").glob("bad*/checkpoints/*"))


def test_a_tokenizer_longer_than_the_embedding_is_refused(ground):
    folder, shards = ground / "longer", ground / "longer_shards"
    shutil.copytree(ground / "model", folder)
    added_token(folder)
    import numpy as np

    tiny.write_shards(shards, folder, tiny.random_documents(np.random.default_rng(0), [30] * 40))
    overrides = ["name=longer", f"model.path={folder}", f"data.sources.a.path={shards}", f"heldout.sources.a.path={shards}"]
    [[said]] = run_ranks(many_refused, 1, ground / "recipe.yaml", [(overrides, "auto")])
    assert "tokenizer: 321 ids, the model has rows for 320" in said


def test_a_folder_that_cannot_be_written_is_refused(ground):
    blocked = ground / "blocked"
    (blocked / "full").mkdir(parents=True)
    (blocked / "full" / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(RankFailed, match="the checkpoint was not written: rank 0: File exists"):
        run_ranks(one_run, 1, ground / "recipe.yaml", [f"runs={blocked}", "name=full"])


def test_a_rehearsal_leaves_nothing_and_takes_no_room(ground):
    run_ranks(rehearsed, 2, ground / "model", ground / "there")
    assert not (ground / "there").exists()
    assert run_ranks(one_run, 1, ground / "recipe.yaml", ["name=fine"]) == [(1, True)]


def rehearsed(world, model: Path, root: Path) -> None:
    import torch

    from train.checkpoint import folder as checkpoint
    from train.checkpoint import rehearsal

    sizes = []
    original = rehearsal._open_as_users_do

    def measure(folder, slices):
        files = [p.stat() for p in folder.rglob("*.safetensors")]
        sizes.append((sum(s.st_size for s in files), sum(s.st_blocks * 512 for s in files)))
        original(folder, slices)

    rehearsal._open_as_users_do = measure
    rehearsal.run(root, checkpoint.Extras({"step": 0}, model), torch.float32, world)
    if world.rank == 0:
        [(apparent, real)] = sizes
        assert apparent > 72_432 * 16 and real < apparent / 4, "full size, and next to no blocks"
