"""Chat fine-tuning: what is refused before it starts, what it warns of, and a whole run at 2 ranks against plain transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools import prepare
from data_tools.shards.reader import Shards
from launch.sft import main
from tests.made import tiny
from tests.made.ranks import run_ranks
from train.preflight.chat_run import LEAST_LR_SUM, lr_sum, too_weak
from train.recipe.load import RECIPES, load

pytestmark = pytest.mark.slow

THINGS = ("star", "dwarf", "comet", "quasar", "pulsar", "nebula", "cluster", "blazar", "magnetar")
CHAT_RECIPES = {"sft_7b": 8, "sft_70b": 16, "sft_recommended_7b": 8}


def write_chats(path: Path, first: int, count: int) -> Path:
    rows = []
    for k in range(first, first + count):
        thing = THINGS[k % len(THINGS)]
        messages = [
            {"role": "user", "content": f"{k}: a {thing}?"},
            {"role": "assistant", "content": f"A {thing} shines." + " Brightly." * (k % 3)},
        ]
        if k % 4 == 0:
            messages += [{"role": "user", "content": "More?"}, {"role": "assistant", "content": "No."}]
        rows.append({"messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepare_chats(folder: Path, name: str, first: int, count: int, template: str = "llama2") -> Path:
    file = write_chats(folder / f"{name}.jsonl", first, count)
    words = ["chat", file, "--tokenizer", folder / "model", "--out", folder / name, "--template", template, "--workers", "1"]
    assert prepare.main([str(w) for w in words]) == 0
    return folder / name


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A tiny model, chats from the real preparation, and one run of 4 steps at 2 ranks."""
    folder = tmp_path_factory.mktemp("sft")
    tiny.save_tiny(folder / "model")
    prepare_chats(folder, "chats", 0, 60)
    prepare_chats(folder, "chats-heldout", 100, 15)
    prepare_chats(folder, "other-heldout", 200, 7)
    chat_recipe(folder)
    [answer, _] = run_ranks(train, 2, folder / "recipe.yaml")
    assert answer == (4, True)
    return folder


def chat_recipe(folder: Path, **changes) -> Path:
    values = {
        "name": "chat",
        "tokens_per_step": 1024,
        "data": {"sources": {"chats": {"path": str(folder / "chats")}}, "seq_len": 256, "packing": "whole"},
        "heldout": {
            "sources": {"chats": {"path": str(folder / "chats-heldout")}, "other": {"path": str(folder / "other-heldout")}},
            "every_steps": 2, "prompts": ["a star?"], "prompt_tokens": 3,
        },
        "logging": {"tensorboard": True},
    }  # fmt: skip
    return tiny.write_recipe(folder, **{k: values.get(k, {}) | v if isinstance(v, dict) else v for k, v in (values | changes).items()})


def train(world, recipe_path: Path) -> tuple[int, bool]:
    from train.run.loop import run

    outcome = run(load(recipe_path), world)
    return outcome.state.step, outcome.finished


def lines_of(ground: Path) -> list[dict]:
    return [json.loads(t) for t in (ground / "runs" / "chat" / "metrics.jsonl").read_text().splitlines()]


def mean_loss_one_by_one(ground: Path, shards: Shards, documents: list[int]) -> float:
    """Through transformers as published, a conversation at a time, over the tokens the mask names."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(ground / "model").float()
    with torch.no_grad():
        tokens = [np.array(shards.tokens(i), dtype=np.int64) for i in documents]
        total, count = tiny.reference_losses(model, tokens, [shards.mask(i) for i in documents])
    return float(total) / count


def test_packed_chat_loss_is_that_of_one_conversation_at_a_time(ground):
    first = next(line for line in lines_of(ground) if "heldout/chats/loss" in line)
    for name in ("chats", "other"):
        shards = Shards.open(ground / f"{name}-heldout")
        assert first["step"] == 0 and first[f"heldout/{name}/loss"] == pytest.approx(
            mean_loss_one_by_one(ground, shards, list(range(len(shards)))), rel=1e-6
        )


def test_a_packed_training_step_has_the_loss_of_its_conversations_one_at_a_time(ground):
    from train.data.loader import Loader
    from train.data.mixture import SourceSpec
    from train.data.plans import DataSettings

    shards = Shards.open(ground / "chats")
    loader = Loader({"chats": shards}, DataSettings(specs=[SourceSpec("chats")], seq_len=256, packing="whole", seed=0, rows_per_step=4))
    loader.next_step()
    ids = [id for _, id, _, _ in loader.step_documents()]
    loader.close()
    step = next(line for line in lines_of(ground) if line["step"] == 1 and "loss" in line)
    assert len(ids) > 8 and step["loss"] == pytest.approx(mean_loss_one_by_one(ground, shards, [shards.find(i)[0] for i in ids]), rel=1e-6)


def test_held_out_chat_loss_is_logged_per_source_at_each_evaluation_and_falls(ground):
    evaluations = [line for line in lines_of(ground) if "heldout/chats/loss" in line]
    assert [line["step"] for line in evaluations] == [0, 2, 4]
    assert all("heldout/other/loss" in line for line in evaluations)
    assert evaluations[-1]["heldout/chats/loss"] < evaluations[0]["heldout/chats/loss"]


def test_answers_to_the_prompts_go_to_tensorboard_at_each_evaluation(ground):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(ground / "runs" / "chat" / "tensorboard"), size_guidance={"tensors": 0})
    board.Reload()
    assert [event.step for event in board.Tensors("answers/a star?/text_summary")] == [0, 2, 4]


def test_a_prompt_is_the_ids_that_stand_before_an_answer_in_training(ground):
    from data_tools.chat.conversations import Turn
    from data_tools.chat.template import ChatTemplate
    from train.data.chat_format import ChatFormat
    from train.evaluation.completion import load_tokenizer

    chat = ChatFormat.of([Shards.open(ground / "chats")])
    wanted = ChatTemplate.load("llama2", ground / "model").prompt([Turn("user", "a star?")])
    assert chat.prompt_ids(load_tokenizer(ground / "model", chat), "a star?") == wanted
    assert chat.end_ids == (2,)


def test_a_checkpoint_carries_the_chat_format_it_was_trained_in(ground):
    from transformers import AutoTokenizer

    folder = ground / "runs" / "chat" / "checkpoints" / "step_000004"
    shards = Shards.open(ground / "chats")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    index = shards.find(shards.id(1))[0]
    chat = [{"role": "user", "content": "1: a dwarf?"}, {"role": "assistant", "content": "A dwarf shines. Brightly."}]
    assert tokenizer.apply_chat_template(chat, return_dict=False) == shards.tokens(index).tolist()
    assert 2 in json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


def refusal(recipe: Path, capsys, *overrides: str) -> str:
    assert main([str(recipe), *overrides, "--dry-run"]) == 1
    return capsys.readouterr().err


def test_split_packing_is_refused(ground, capsys):
    said = refusal(ground / "recipe.yaml", capsys, "data.packing=split")
    assert "data.packing=split" in said and "needs data.packing=whole" in said


def test_plain_text_shards_are_refused_with_every_other_fault_at_once(ground, capsys):
    tiny.write_shards(ground / "corpus", ground / "model", [np.arange(3, 40)])
    prepare_chats(ground, "as-chatml", 300, 5, template="chatml")
    said = refusal(
        ground / "recipe.yaml", capsys, "data.packing=split", f"data.sources.text.path={ground / 'corpus'}", "data.seq_len=64", "tokens_per_step=1024",
        f"data.sources.two.path={ground / 'as-chatml'}",
    )  # fmt: skip
    assert "data.sources.text.path" in said and "without a loss mask" in said
    assert "would be cut inside a turn" in said and "--seq-len 64" in said
    assert "different chat templates" in said and "chatml: data.sources.two" in said
    assert "data.packing=split" in said


def test_long_conversations_may_be_left_out_by_rule_and_are_counted(ground, capsys):
    longest = int(Shards.open(ground / "chats").lengths.max())
    longer = int((Shards.open(ground / "chats").lengths > 64).sum())
    assert longest > 64
    words = ["data.seq_len=64", "data.long_documents=drop", "heldout.sources={}", "heldout.every_steps=0", "tokens_per_step=1024"]
    assert main([str(ground / "recipe.yaml"), *words, "--dry-run"]) == 0
    assert f"{longer} of 60 conversations are longer than a row of 64 and are left out" in capsys.readouterr().err


@pytest.mark.parametrize("name", CHAT_RECIPES)
def test_each_chat_recipe_passes_a_dry_run_and_only_the_papers_settings_are_too_weak(name, capsys):
    assert main([str(RECIPES / f"{name}.yaml"), "--dry-run", "--elsewhere", "--gpus", str(CHAT_RECIPES[name])]) == 0
    out, err = capsys.readouterr()
    assert "rows of padding" not in out and ("the learning rates add up to 9.8e-05" in err) == (name != "sft_recommended_7b")


def test_the_least_that_is_known_to_work_is_strong_enough():
    lima = 234 * (1e-5 + 1e-6) / 2  # 1,000 chats, 15 epochs, batch 64, linear decay
    assert too_weak(1e-5, 234, lima) is None and lima > 2 * LEAST_LR_SUM
    assert "Raise optim.lr" in too_weak(3e-7, 654, 3e-7 * 654 / 2)
    assert too_weak(1.0, 1, LEAST_LR_SUM) is None


def test_the_sum_of_learning_rates_is_what_a_run_will_use():
    papers = load(RECIPES / "sft_7b.yaml")
    assert lr_sum(papers) == pytest.approx(3e-7 * 654 / 2, rel=0.02)  # warm-up and cosine to 0: half of the peak
