"""Recipes: every fault at once, values cast by type, and what a dry run derives."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.made import processes, tiny
from tests.made.where import ROOT
from train.recipe.checks import CHECKS
from train.recipe.load import RECIPES, load
from train.recipe.vocabulary import RecipeError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


GOOD = """
name: x
steps: 10
tokens_per_step: 128
model: {path: m}
data: {sources: {a: {path: s}}, seq_len: 64}
"""


@pytest.mark.slow
def test_one_message_names_all_ten_seeded_faults_with_place_value_and_remedy(tmp_path):
    path = write(
        tmp_path,
        """name: "bad name!"
steps: 10
tokens: 1e6
tokens_per_step: 1000
micro_batch: 0
model:
  path: m
  attention: flsh
  dtyp: bf16
data:
  sources:
    a: {path: s, weight: 1}
    b: {path: t}
  seq_len: 64
optim: {lr: fast, betas: [0.9]}
schedule: {warmup_steps: 1, warmup_ratio: 0.1}
heldout: {every_steps: 5}
""",
    )
    done = processes.run([sys.executable, "launch/pretrain.py", str(path)])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for wanted in (
        "name='bad name!' (r.yaml line 1): must be letters",
        "micro_batch=0 (r.yaml line 5): must be at least 1",
        "model.attention='flsh' (r.yaml line 8): not one of auto, flash4, flash, torch_varlen, sdpa; did you mean flash?",
        "model.dtyp='bf16' (r.yaml line 9): unknown key; did you mean model.dtype?",
        "optim.lr='fast' (r.yaml line 15): a number is wanted here",
        "optim.betas=[0.9] (r.yaml line 15): a list of 2 is wanted here",
        "steps=10, tokens=1000000: give the run's length once",
        "tokens_per_step=1000: not a multiple of data.seq_len=64; 1024 is",
        "schedule.warmup_ratio, schedule.warmup_steps: give the warm-up once",
        "data.sources: a have a weight and b none",
        "heldout.every_steps=5: there are no heldout.sources",
    ):
        assert wanted in done.stderr, (wanted, done.stderr)
    assert "11 faults" in done.stderr


def test_values_are_cast_by_type_since_yaml_reads_2e_5_as_text(tmp_path):
    recipe = load(
        write(tmp_path, GOOD),
        ["optim.lr=2e-5", "tokens=1_000_000", "optim.betas=[0.8, 0.9]", "model.compile=true", "heldout.prompts=[A star]"],
    )
    assert (recipe.optim.lr, recipe.tokens, recipe.steps) == (2e-5, 1_000_000, None)
    assert recipe.optim.betas == (0.8, 0.9) and recipe.model.compile is True and recipe.heldout.prompts == ("A star",)


def test_a_length_on_the_command_line_replaces_the_recipes(tmp_path):
    assert load(write(tmp_path, GOOD), ["tokens=1000"]).total_steps == 8  # 7.8 steps of 128, rounded up
    assert load(write(tmp_path, GOOD), ["steps=3"]).total_steps == 3


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optim.lr", "overrides look like optim.lr=1e-5"),
        ("optim.lrr=1", "did you mean optim.lr?"),
        ("name.x=1", "name is a value, not a section"),
        ("steps=2.5", "a whole number is wanted here"),
        ("optim.lr=nan", "a number is wanted here"),
        ("model.compile=1", "true or false is wanted here"),
        ("data.sources=5", "a mapping of names to sections"),
        ("optim=3", "a section is wanted here"),
    ],
)
def test_a_wrong_override_is_named(tmp_path, word, said):
    with pytest.raises(RecipeError) as error:
        load(write(tmp_path, GOOD), [word])
    assert said in str(error.value)


def test_a_missing_or_broken_file_says_what_there_is(tmp_path):
    with pytest.raises(RecipeError, match="cpt_70b.yaml, cpt_7b.yaml, quickstart.yaml|quickstart.yaml"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="line 2, column"):
        load(write(tmp_path, "name: x\n  bad: [\n"))
    with pytest.raises(RecipeError, match="holds no mapping"):
        load(write(tmp_path, "- 1\n"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpt_7b", "cpt_70b", "quickstart"])
def test_a_dry_run_derives_every_number_without_a_process_group(name):
    code = (
        "import sys; from launch.pretrain import main; "
        f"status = main(['launch/recipes/{name}.yaml', '--dry-run', '--elsewhere', '--gpus', '8']); "
        "import torch.distributed as d; assert not d.is_initialized(); sys.exit(status)"
    )
    done = processes.run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    for word in ("global batch", "accumulation", "steps", "warm-up", "tokens", "checkpoint" if name != "quickstart" else "engine"):
        assert word in done.stdout
    if name == "cpt_7b":
        assert "1,048,576 tokens = 256 rows of 4096" in done.stdout
        assert "16 micro-batches a step" in done.stdout  # 256 rows / (8 ranks x 2 rows)
        assert "3,148" in done.stdout and "3,300,917,248" in done.stdout  # ceil(3.3e9 / 1048576)
        assert "94.44 steps" in done.stdout  # 3%
        assert "94.34 GB each" in done.stdout  # 6,738,415,616 x 14 bytes
        assert "14.12 GiB" in done.stdout  # 18 bytes x N / 8


@pytest.mark.slow
def test_a_dry_run_finds_what_is_wrong_with_shards_that_are_here(tmp_path):
    ground = tiny.ground(tmp_path)
    base = [sys.executable, "launch/pretrain.py", str(ground / "recipe.yaml"), "--dry-run"]
    good = processes.run(base)
    assert good.returncode == 0 and "all inputs are here" in good.stdout and "passes over a" in good.stdout
    capped = processes.run([*base, "data.sources.a.max_repeats=1", "steps=1000"])
    assert capped.returncode == 1 and "max_repeats" in capped.stderr and "Traceback" not in capped.stderr
    (ground / "model" / "tokenizer.json").write_text("{}")
    other = processes.run(base)
    assert other.returncode == 1 and "tokenizer" in other.stderr and "Traceback" not in other.stderr


def test_a_deepspeed_json_that_sets_what_the_recipe_owns_is_refused(tmp_path):
    from train.engine.deepspeed_json import merged_config

    bad = tmp_path / "ds.json"
    bad.write_text('{"zero_optimization": {"stage": 2}, "train_batch_size": 8, "gradient_clipping": 1.0}')
    recipe = load(write(tmp_path, GOOD), [f"deepspeed={bad}"])
    with pytest.raises(RecipeError) as error:
        merged_config(recipe, 2, on_cuda=False)
    for wanted in (
        "train_batch_size=8: the recipe owns this; take it out and set tokens_per_step",
        "gradient_clipping=1.0",
        "optim.clip",
        "stage=2",
    ):
        assert wanted in str(error.value)
    bad.write_text("{")
    with pytest.raises(RecipeError, match="not a JSON object"):
        merged_config(recipe, 2, on_cuda=False)
    with pytest.raises(RecipeError, match="ds_configs/cpu.json"):
        merged_config(load(write(tmp_path, GOOD), ["deepspeed=none.json"]), 2, on_cuda=False)


def test_every_recipe_loads_with_every_engine_config():
    from train.engine.deepspeed_json import merged_config

    recipes, configs = sorted(RECIPES.parent.glob("*/*.yaml")), sorted((ROOT / "ds_configs").glob("*.json"))
    assert len(recipes) >= 9 and len(configs) == 5
    for r in recipes:
        for c in configs:
            config = merged_config(load(r, [f"deepspeed={c}"]), 64, on_cuda=True)
            assert config["train_batch_size"] == config["train_micro_batch_size_per_gpu"] * 64 * config["gradient_accumulation_steps"]


def test_the_resolved_recipe_reads_back_as_itself(tmp_path):
    recipe = load(RECIPES / "cpt_7b.yaml", ["optim.lr=1e-5"])
    again = load(write(tmp_path, yaml.safe_dump(recipe.to_dict())))
    assert again == recipe


def test_a_check_reads_no_key_but_those_it_states():
    assert len(CHECKS) >= 8
    for keys, check in CHECKS:
        view: dict = {}
        for key in keys:
            if any(other.startswith(f"{key}.") for other in keys):
                continue  # a section, which its keys make
            *sections, last = key.split(".*")[0].split(".")
            at = view
            for section in sections:
                at = at.setdefault(section, {})
            at[last] = (
                {}
                if last == "sources"
                else ()
                if last in ("allow", "stop_if", "warn_if")
                else None
                if last.startswith("warmup") or last == "to"
                else 2
            )
        check(_namespace(view))


def _namespace(values):
    return SimpleNamespace(**{k: _namespace(v) if isinstance(v, dict) and k != "sources" else v for k, v in values.items()})


@pytest.mark.parametrize(
    "broken, seen, unseen",
    [
        ("steps: many", ["tokens_per_step=100: not a multiple"], ["give the run's length"]),
        ("data: {sources: {a: {path: s, weight: heavy}, b: {path: t}}, seq_len: 64}", ["tokens_per_step=100"], ["have a weight"]),
        (
            "data: {sources: {a: {weight: 1}, b: {path: t}}, seq_len: 64}",
            ["data.sources.a.path: missing", "a have a weight and b none"],
            [],
        ),
        ("data: {sources: {a: {path: s}}, seq_len: none}", ["data.seq_len='none'"], ["not a multiple"]),
        ("data: 5", ["data=5"], ["not a multiple", "data.sources"]),
        ("schedule: {warmup_steps: soon, warmup_ratio: 0.1}", ["tokens_per_step=100"], ["give the warm-up once"]),
        ("schedule: {warmup_steps: 90, floor_ratio: low}", ["leaves nothing of the run's 10"], []),
        ("model: {pth: m}", ["model.path: missing", "tokens_per_step=100"], []),
    ],
)
def test_checks_across_keys_run_when_none_of_their_keys_is_at_fault(tmp_path, broken, seen, unseen):
    given = {
        "name": "x",
        "steps": 10,
        "tokens_per_step": 100,
        "model": {"path": "m"},
        "data": {"sources": {"a": {"path": "s"}}, "seq_len": 64},
    }
    with pytest.raises(RecipeError) as error:
        load(write(tmp_path, yaml.safe_dump(given | yaml.safe_load(broken))))
    for text in seen:
        assert text in str(error.value), str(error.value)
    for text in unseen:
        assert text not in str(error.value), str(error.value)
