"""On a CUDA device (`make gpu`): whole runs against transformers and plain torch, cut runs, saves behind the steps, and what goes wrong."""

import json
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.made import faulty, processes, spiky, tiny
from tests.made.gpu import NEEDED, compute_the_same_twice
from tests.made.ranks import run_ranks
from tests.train.checkpoint.test_save_faults import content_of
from tests.train.checkpoint.test_saver import slow
from tests.train.engine.test_step import deviation, mixed_rows, plain_torch, poisoned, twenty_steps
from tests.train.run.test_loop import checkpoint_of, losses_of, one_run
from train.checkpoint.manifest import faults_of

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(600), NEEDED]

CARD = "cuda"
STEPS, CUT, LR = 20, 10, 3e-4
SHAPE = dict(hidden_size=512, intermediate_size=1408, num_attention_heads=8, num_key_value_heads=4)  # heads of 64
ZERO3, OFFLOADED = Path("ds_configs/zero3.json"), Path("ds_configs/zero3_offload_optimizer.json")


def documents_of(seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return tiny.random_documents(rng, rng.integers(2, 60, 260).tolist())


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tiny.ground(tmp_path_factory.mktemp("card"))
    for name in ("model", "shards"):
        shutil.rmtree(folder / name)
    tiny.save_tiny(folder / "model", **SHAPE)
    tiny.write_shards(folder / "shards", folder / "model", documents_of())
    tiny.write_recipe(
        folder, steps=STEPS, deepspeed=str(ZERO3), optim={"lr": LR, "kernel": "auto"}, checkpoint={"every_steps": 5, "keep_last": 99},
    )  # fmt: skip
    return folder


def told(run: Path) -> list[dict]:
    """What a run logged of its steps."""
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


def in_fp32(world, recipe: Path) -> bool:
    assert world.device.type == CARD
    compute_the_same_twice()
    return one_run(world, recipe, ["name=fp32", "model.dtype=fp32"])[1]


def in_bf16(world, recipe: Path) -> dict[str, str]:
    """A run with saves between its steps, one with slow saves behind them, and that one cut and gone on with; how each failed, if it did."""
    from train.checkpoint.saver import HostCopy

    assert world.device.type == CARD
    compute_the_same_twice()
    words, behind = ["model.dtype=bf16"], "checkpoint.background=true"
    at = str(checkpoint_of(recipe.parent, CUT, "behind"))
    ways = {
        "between": lambda: one_run(world, recipe, ["name=between", *words, "checkpoint.background=false"]),
        "behind": lambda: slow(world, recipe, ["name=behind", *words, behind], HostCopy, "_copy", 0.01),
        "cut": lambda: one_run(world, recipe, ["name=cut", *words, behind], at),
    }
    failed = {}
    for name, way in ways.items():
        failed[name] = ""
        try:
            way()
        except Exception:
            failed[name] = traceback.format_exc()
    return failed


@pytest.fixture(scope="module")
def fp32(ground) -> list[dict]:
    assert run_ranks(in_fp32, 1, ground / "recipe.yaml", seconds=300) == [True]
    return told(ground / "runs" / "fp32")


@pytest.fixture(scope="module")
def failed(ground) -> dict[str, str]:
    return run_ranks(in_bf16, 1, ground / "recipe.yaml", seconds=400)[0]


@pytest.fixture(scope="module")
def steps(ground) -> list[list[np.ndarray]]:
    """The documents of each step, or their parts, with the token that a part's last one has as its target."""
    from data_tools.shards.reader import Shards
    from train.data.loader import Loader
    from train.preflight.epochs import data_settings
    from train.recipe.load import load

    own, loader, found = documents_of(), Loader({"a": Shards.open(ground / "shards")}, data_settings(load(ground / "recipe.yaml", []))), []
    for _ in range(STEPS):
        loader.next_step()
        found.append([own[int(id.rpartition("-")[2])][start : stop + 1] for _, id, start, stop in loader.step_documents()])
    loader.close()
    return found


def plainly(folder: Path, steps: list[list[np.ndarray]], rates: list[float], device: str) -> list[tuple[float, float]]:
    """Losses and norms of transformers' own model in fp32, document by document, and of torch's AdamW."""
    from transformers import LlamaForCausalLM

    compute_the_same_twice()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").to(device).train()
    some = [[p for p in model.parameters() if (p.ndim > 1) == matrices] for matrices in (True, False)]
    groups = [{"params": p, "weight_decay": decay} for p, decay in zip(some, (0.1, 0.0), strict=True)]
    optimizer, numbers = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8), []
    for documents, rate in zip(steps, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        total, count = tiny.reference_losses(model, documents)
        (total / count).backward()
        numbers.append(((total / count).item(), torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()))
        optimizer.step()
        optimizer.zero_grad()
    torch.use_deterministic_algorithms(False)
    return numbers


@pytest.fixture(scope="module")
def plain(ground, steps, fp32) -> list[tuple[float, float]]:
    return plainly(ground / "model", steps, [line["lr"] for line in fp32], CARD)


def apart(lines: list[dict], wanted: list[tuple[float, float]]) -> tuple[float, float, str]:
    """The largest relative distances of losses and of norms, and all of them side by side."""
    found = [(line["loss"], line["grad_norm"]) for line in lines]
    shown = "\n".join(
        f"step {k + 1}: {a[0]:.7f} {a[1]:.6f}, plainly {b[0]:.7f} {b[1]:.6f}" for k, (a, b) in enumerate(zip(found, wanted, strict=False))
    )
    assert len(found) == len(wanted), shown
    loss, norm = (max(abs(a[k] - b[k]) / b[k] for a, b in zip(found, wanted, strict=True)) for k in range(2))
    return loss, norm, f"losses {loss:.1e} apart, norms {norm:.1e}\n{shown}"


def test_twenty_steps_in_fp32_are_those_of_transformers_and_plain_torch(fp32, plain):
    loss, norm, shown = apart(fp32, plain)
    print(f"\nfp32 on the card, {STEPS} steps: losses within {loss:.1e}, norms within {norm:.1e} of plain torch's")
    assert loss <= 5e-5 and norm <= 1e-3, shown


def test_twenty_steps_in_bf16_stay_near_them(ground, failed, plain):
    assert not failed["between"], failed["between"]
    loss, norm, shown = apart(told(ground / "runs" / "between"), plain)
    print(f"\nbf16 on the card, {STEPS} steps: losses within {loss:.1e}, norms within {norm:.1e} of plain torch's in fp32")
    assert loss <= 2e-2 and norm <= 2e-1, shown


def test_the_first_step_in_bf16_is_the_cpus_in_fp32_but_for_rounding(ground, failed, steps):
    assert not failed["between"], failed["between"]
    first = told(ground / "runs" / "between")[:1]
    loss, norm, shown = apart(first, plainly(ground / "model", steps[:1], [0.0], "cpu"))
    print(f"\nthe first step in bf16: loss within {loss:.1e}, norm within {norm:.1e} of a CPU's in fp32")
    assert loss <= 5e-3 and norm <= 3e-2, shown


def test_a_cut_run_goes_on_bit_equal(ground, failed):
    assert not failed["between"] and not failed["cut"], failed
    uncut, cut = (losses_of(ground / "runs" / name) for name in ("between", "cut"))
    assert cut == {step: uncut[step] for step in range(CUT + 1, STEPS + 1)}, (uncut, cut)
    for step in (15, STEPS):
        one, other = (content_of(checkpoint_of(ground, step, name)) for name in ("between", "cut"))
        different = [name for name in one if name != "trainer/probe.safetensors" and one[name] != other.get(name)]
        assert len(one) >= 2 and not different, (step, different)


def test_what_is_saved_behind_the_steps_is_of_the_step_asked_for(ground, failed):
    assert not failed["between"] and not failed["behind"], failed
    between, behind = (losses_of(ground / "runs" / name) for name in ("between", "behind"))
    assert between == behind, [(step, between[step], behind.get(step)) for step in between if between[step] != behind.get(step)]
    for step in range(5, STEPS + 1, 5):
        one, other = (content_of(checkpoint_of(ground, step, name)) for name in ("between", "behind"))
        assert len(one) >= 2 and one.keys() == other.keys() and all(one[name] == other[name] for name in one), (step, list(one))


@pytest.mark.parametrize(("run", "dtype"), [("fp32", "fp32"), ("cut", "bf16")])
def test_an_exported_checkpoint_computes_what_the_card_did(run, dtype, ground, fp32, failed, tmp_path, capsys):
    from launch.export_hf import main

    assert run == "fp32" or not failed[run], failed
    code = main([str(checkpoint_of(ground, STEPS, run)), str(tmp_path / "out"), "--dtype", dtype, "--check"])
    said = capsys.readouterr()
    print(said.out)
    assert code == 0 and "check: max" in said.out, (code, said)


def not_finite(world, recipe: Path) -> str:
    from train.guard.spikes import SpikeError
    from train.recipe.load import load
    from train.run.loop import run

    spiky.marks_are_not_finite()
    try:
        run(load(recipe, []), world)
    except SpikeError as error:
        return str(error)
    return "went on"


def test_steps_that_are_not_finite_are_skipped_and_too_many_in_a_row_end_the_run(tmp_path):
    guard = {"max_nonfinite_in_a_row": 2}
    optim = {"lr": 3e-3, "kernel": "auto"}
    spiky.ground(tmp_path, marked_steps=(3, 6, 7), guard=guard, deepspeed=str(ZERO3), optim=optim)
    [said] = run_ranks(not_finite, 1, tmp_path / "recipe.yaml")
    lines = [json.loads(text) for text in (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    skipped = [line["step"] for line in lines if line.get("skipped")]
    assert "not finite for 2 steps in a row" in said and skipped == [3, 6, 7], (said, lines)
    kept = sorted(p.name for p in (tmp_path / "runs" / "tiny" / "checkpoints").iterdir())
    assert kept[-1] == "step_000006" and not [name for name in kept if "tmp" in name], kept


def test_a_nan_on_the_card_changes_no_weight(tmp_path):
    [(first, norm, kept, after)] = run_ranks(poisoned, 1, tiny.save_tiny(tmp_path / "model"), "nan")
    assert np.isfinite(first) and not np.isfinite(norm) and kept and np.isfinite(after), (first, norm, kept, after)


@pytest.mark.parametrize(("kernel", "config"), [("torch", ZERO3), ("cpu", OFFLOADED)], ids=["on the card", "in host memory"])
def test_an_optimizer_on_the_card_and_one_in_host_memory_stay_near_plain_torch(kernel, config, tmp_path):
    rows, masks = mixed_rows()
    found = run_ranks(twenty_steps, 1, tiny.save_tiny(tmp_path / "model"), rows, masks, kernel, config, seconds=300)[0]
    loss, norm, weights = deviation(found, plain_torch(rows, masks))
    print(
        f"\n{config.name} on the card, Adam: {kernel}, 20 steps: loss {loss:.1e}, norm {norm:.1e}, weights {weights:.1e} from plain torch"
    )
    assert loss <= 1e-4 and weights <= 1e-3, (loss, norm, weights, found[0])


def gradients(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the sum of the last hidden states weighted at random, and the states; in fp32, on the CPU."""
    hidden = model(input_ids=ids, use_cache=False).last_hidden_state
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3)).to(hidden)
    (hidden * weights).sum().backward()
    return {"hidden": hidden.detach().float().cpu(), **{n: p.grad.float().cpu() for n, p in model.named_parameters()}}


def test_ligers_layers_round_no_more_than_transformers_own_in_bf16():
    from train.model import kernels

    if not kernels.available():
        pytest.skip("liger-kernel is not installed")
    ids = torch.randint(3, tiny.VOCAB, (1, 192), generator=torch.Generator().manual_seed(2)).to(CARD)
    found = []
    for dtype, fused in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        model = tiny.tiny_model(**SHAPE)
        for matrix in (p for p in model.parameters() if p.ndim > 1):
            matrix.data.mul_(0.25)  # attention less steep, so that rounding stays small
        frequencies = model.model.rotary_emb.inv_freq.clone()
        model = model.to(CARD, dtype)
        model.model.rotary_emb.inv_freq = frequencies.to(CARD)  # in fp32, as in a run
        assert not fused or "RMSNorm, RoPE, SwiGLU" in kernels.apply(model)
        found.append(gradients(model.model, ids))
    exact = found[0]
    off = {n: [((other[n] - exact[n]).norm() / exact[n].norm()).item() for other in found[1:]] for n in exact}
    shown = "\n".join(f"{n}: transformers' {a:.2e}, liger's {b:.2e}" for n, (a, b) in off.items())
    print(f"\nlayers in bf16, off fp32\n{shown}")
    assert all(b <= 2 * a + 1e-4 for a, b in off.values()) and any(a != b for a, b in off.values()), shown


def test_a_step_that_finds_no_memory_ends_the_run_in_one_message_and_leaves_its_checkpoints(ground):
    order, run = ground / "order", ground / "runs" / "full"
    door, log = faulty.door(ground, order), ground / "full.log"
    words = ["name=full", "steps=9999", "checkpoint.every_steps=3", "checkpoint.keep_last=1", "heldout=null"]
    with open(log, "w") as out:
        process = processes.start([sys.executable, door, ground / "recipe.yaml", *words], stdout=out, stderr=subprocess.STDOUT)
    try:
        processes.wait_until(lambda: list((run / "checkpoints").glob("step_*")), process)
        faulty.order(order, 0, "forward", "fill device")
        code = process.wait(processes.SECONDS)
    finally:
        processes.end(process)
    said = log.read_text()
    assert code == 1 and len(re.findall("Lower micro_batch", said)) == 1 and "Traceback" not in said, (code, said[-4000:])
    [line] = [line for line in said.splitlines() if "Lower micro_batch" in line]
    assert re.search(r"CUDA out of memory\. Tried to allocate .*activation_checkpointing.*t\S+/\S+\.py:\d+", line), line
    ended = json.loads((run / "outcome.json").read_text())
    assert (ended["ended"], ended["exit_code"]) == ("failed", 1) and "out of memory" in ended["cause"], ended
    kept = sorted((run / "checkpoints").glob("step_*"))
    assert str(kept[-1]) == ended["checkpoint"] and not [fault for folder in kept for fault in faults_of(folder)], (kept, ended)
