"""The run, top to bottom: recipe → engine, data → steps → checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from data_tools.shards.fingerprint import tokenizer_fingerprint
from data_tools.shards.reader import Shards
from train.checkpoint import find, rehearsal, trainer_state
from train.checkpoint import folder as checkpoint
from train.checkpoint.saver import Keep, Saver
from train.data.batch import PackedBatch
from train.data.chat_format import ChatFormat
from train.data.loader import Loader
from train.data.mixture import SourceSpec
from train.engine.deepspeed_json import merged_config
from train.engine.zero3 import Engine, start
from train.evaluation import completion, heldout, probe
from train.guard import run_lock
from train.guard.signals import Guard
from train.model.causal_lm import config_of
from train.model.flops import flops_per_token
from train.model_files import folder as model_folder
from train.model_files.companions import COMPANIONS
from train.model_files.fetch import resolve
from train.preflight import memory_plan
from train.recipe import changes as resume
from train.recipe.schedule import learning_rate
from train.recipe.vocabulary import Recipe
from train.run.metrics_log import MetricsLog, peak_tflops
from train.run.rates import Machine, StepNumbers
from train.world.places import is_remote, local_copy, place, write_durably
from train.world.ranks import World

PREFETCH_STEPS = 2


@dataclass(frozen=True)
class TrainState:
    """Where a run stands: positions, never buffers."""

    step: int = 0
    tokens: int = 0  # without padding
    heldout_loss: float | None = None  # of the last evaluation, mean over sources


@dataclass(frozen=True)
class Outcome:
    """How a run ended. finished: all steps are done; otherwise a signal stopped it after a save."""

    state: TrainState
    finished: bool
    checkpoint: Path | None


def run(recipe: Recipe, world: World, resume_from: str = "auto") -> Outcome:
    """Train. Every rank calls it; raises the ValueErrors of its parts with place, value and remedy."""
    world.connect(recipe.guard.timeout_seconds)
    lock = run_lock.take(recipe.run_dir, world)
    root = place(recipe.checkpoints)
    found = find.find(root, resume_from, world)
    saved = find.read_state(found) if found else None
    if saved:
        _require_same_recipe(saved["recipe"], recipe, found, world)
    source = found or resolve(recipe.model.path, world)
    folder = local_copy(source, COMPANIONS, recipe.run_dir / "resumed_from", world) if is_remote(source) else source
    shards, heldout_shards = _open_data(recipe, folder, world)
    chat = ChatFormat.of(shards.values())
    dtype = torch.bfloat16 if recipe.model.dtype == "bf16" else torch.float32
    for line in memory_plan.require(recipe, config_of(folder), world):
        world.log0(line)
    begun = time.perf_counter()
    rehearsal.run(root, _extras(recipe, TrainState(), {}, folder, chat, world, "rehearsal"), dtype, world)
    world.log0(f"a save into {root} was rehearsed in {time.perf_counter() - begun:.1f} s")
    engine, loaded, said = start(recipe, world, source, len(shards), folder)
    world.log0(
        f"{recipe.name}: {engine.total_parameters:,} parameters over {world.size} ranks from {source}; weights fingerprint {loaded.fingerprint}"
    )
    world.log0(said)
    loader = _loader(recipe, shards, world)
    state = TrainState()
    if saved:
        trainer_state.load(engine, found, world)
        loader.load_state_dict(saved["loader"])
        state = TrainState(saved["step"], saved["tokens"], saved["heldout_loss"])
        world.log0(f"resumed from {found}: step {state.step}, {state.tokens:,} tokens")
    else:
        loader.require_tokens(recipe.total_steps * recipe.tokens_per_step)
        _write_run_files(recipe, source, loaded.fingerprint, world)
    log = MetricsLog(
        recipe.run_dir,
        world,
        _machine(recipe, engine, world),
        recipe.total_steps,
        recipe.logging.every_steps,
        recipe.logging.tensorboard,
        state.step,
    )
    c = recipe.checkpoint
    saver = Saver(engine, root, Keep(c.keep_last, c.keep_every, c.keep_best), world, c.background)
    saver.newest = found
    try:
        with Guard(world, recipe.guard.max_nonfinite_in_a_row) as guard:
            if not saved:
                state = _evaluate(recipe, engine, heldout_shards, state, log, folder, chat, world)
                _require_sane_start(recipe, state)
            outcome = _steps(recipe, engine, loader, heldout_shards, state, log, guard, folder, chat, saver, world)
            saver.finish()
            return dataclasses.replace(outcome, checkpoint=saver.newest)
    finally:
        saver.abandon()
        loader.close()
        log.close()
        if lock:
            lock.close()


def _steps(
    recipe: Recipe,
    engine: Engine,
    loader: Loader,
    heldout_shards: dict[str, Shards],
    state: TrainState,
    log: MetricsLog,
    guard: Guard,
    folder: Path,
    chat: ChatFormat | None,
    saver: Saver,
    world: World,
) -> Outcome:
    every = recipe.checkpoint.every_steps
    while state.step < recipe.total_steps:
        begun = time.perf_counter()
        loader.data_wait_seconds = 0.0
        lr = learning_rate(recipe, state.step)
        engine.set_lr(lr)
        batches = loader.next_step()
        [supervised] = world.sum([sum(b.supervised for b in batches)])  # global, so packing and masks cannot skew the loss
        losses, sources = _forward_backward(engine, batches, supervised, world)
        loss, source_losses, stop, wait, tokens, attended = _agree(losses, sources, batches, guard, saver, loader, supervised, world)
        saver.before_update()
        norm = engine.step()  # a non-finite norm leaves the weights as they were
        finite = math.isfinite(loss) and math.isfinite(norm)
        state = TrainState(state.step + 1, state.tokens + tokens, state.heldout_loss)
        log.step(StepNumbers(
            step=state.step, loss=loss, lr=lr, grad_norm=norm, tokens=state.tokens, step_tokens=tokens, supervised=int(supervised), seconds=time.perf_counter() - begun,
            wait_seconds=wait, attended=attended, skipped=not finite, source_losses=source_losses,
        ))  # fmt: skip
        guard.note(finite, state.step, [] if finite else [f"{s}/{i}" for s, i, _, _ in loader.step_documents()])
        last = state.step == recipe.total_steps
        evaluated = last
        if last or recipe.heldout.every_steps and state.step % recipe.heldout.every_steps == 0 and not stop:
            state = _evaluate(recipe, engine, heldout_shards, state, log, folder, chat, world)
            evaluated = True
        if last or stop or every and state.step % every == 0:
            extras = _extras(recipe, state, loader.state_dict(), folder, chat, world, engine.kernel)
            if evaluated:  # one forward more beside those of the evaluation
                extras = dataclasses.replace(extras, probe=probe.record(engine, loader.shards[0].tokens(0), world))
            saver.save(extras)
        if stop and not last:
            return Outcome(state, False, None)
    return Outcome(state, True, None)


def _forward_backward(engine: Engine, batches: list[PackedBatch], supervised: float, world: World) -> tuple[list, list]:
    losses, sources = [], []
    for k, batch in enumerate(batches):
        # a step without a single target still runs, so that every rank makes the same calls; its gradient is zero
        loss, per_source = engine.backward(batch.to(world.device), max(int(supervised), 1), last=k == len(batches) - 1)
        losses.append(loss)
        sources.append(per_source)
    return losses, sources


def _agree(
    losses: list, sources: list, batches: list[PackedBatch], guard: Guard, saver: Saver, loader: Loader, supervised: float, world: World
) -> tuple[float, dict[str, float], bool, float, int, float]:
    """The step's one status all-reduce: loss, loss per source, stop, waiting time, tokens and squared lengths, from all ranks."""
    names = loader.source_names
    counts = np.zeros(len(names))
    tokens = squares = 0.0
    for b in batches:
        real = b.source >= 0
        labelled = b.source[real & (b.labels.reshape(-1) != -100)].numpy()
        counts += np.bincount(labelled, minlength=len(names))
        tokens += int(real.sum())
        squares += float((b.cu_seqlens.diff().double() ** 2).sum())
    own = [
        float(sum(losses)),
        *sum(sources).double().tolist(),
        *counts,
        float(guard.signal is not None),
        float(saver.failed),
        loader.data_wait_seconds,
        tokens,
        squares,
    ]
    total, *rest = world.sum(own)
    n = len(names)
    per_source = {name: s / c for name, s, c in zip(names, rest[:n], rest[n : 2 * n], strict=True) if c}
    stop, failed, wait, tokens, squares = rest[2 * n :]
    if failed:
        saver.finish()  # raises what the save behind the steps has ended in
    return total / max(supervised, 1), per_source, stop > 0, wait / world.size, int(tokens), squares / (2 * tokens) if tokens else 0.0


def _evaluate(
    recipe: Recipe,
    engine: Engine,
    shards: dict[str, Shards],
    state: TrainState,
    log: MetricsLog,
    folder: Path,
    chat: ChatFormat | None,
    world: World,
) -> TrainState:
    if prompts := recipe.heldout.prompts:
        tokenizer = completion.load_tokenizer(folder, chat)
        log.answers(state.step, {p: completion.complete(engine, tokenizer, p, recipe.heldout.prompt_tokens, world, chat) for p in prompts})
    if not shards:
        return state
    scores = heldout.evaluate(engine, shards, recipe.data.seq_len, recipe.heldout.max_rows, recipe.micro_batch, world)
    log.heldout(state.step, state.tokens, scores)
    return dataclasses.replace(state, heldout_loss=heldout.mean_loss(scores))


def _extras(
    recipe: Recipe, state: TrainState, loader: dict[str, Any], folder: Path, chat: ChatFormat | None, world: World, adam_kernel: str
) -> checkpoint.Extras:
    content = {
        **dataclasses.asdict(state), "loader": loader, "recipe": recipe.to_dict(), "world_size": world.size, "adam_kernel": adam_kernel,
        "versions": versions(),
    }  # fmt: skip
    return checkpoint.Extras(content, folder, chat.model_files(folder) if chat else {}, trainer_state=recipe.checkpoint.trainer_state)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": platform.python_version(), **{p: version(p) for p in ("torch", "deepspeed", "transformers", "numpy")}}


def _require_same_recipe(old: dict[str, Any], recipe: Recipe, found: Path, world: World) -> None:
    safe, changing = resume.differences(old, recipe.to_dict())
    if message := resume.refusal(changing, safe, recipe.checkpoint.allow, str(found)):
        raise find.ResumeError(message)
    for difference in safe + changing:
        world.log0(f"changed since the checkpoint: {difference}")


def _require_sane_start(recipe: Recipe, state: TrainState) -> None:
    limit = recipe.model.max_start_loss
    if limit is not None and state.heldout_loss is not None and not state.heldout_loss <= limit:
        raise model_folder.WeightsError(
            f"{recipe.model.path}: held-out loss before training is {state.heldout_loss:.3f}, model.max_start_loss={limit}; the weights are not what they "
            "should be, or the text is of another kind. Check the model folder and its tokenizer"
        )


def _open_data(recipe: Recipe, model: Path, world: World) -> tuple[dict[str, Shards], dict[str, Shards]]:
    """Every folder of shards, verified by hash (the ranks share the work) and of the model's tokenizer."""
    wanted = tokenizer_fingerprint(model)

    def open_all(section: str, paths: dict[str, Path]) -> dict[str, Shards]:
        opened = {}
        for name, path in paths.items():
            shards = Shards.open(path, part=(world.rank, world.size))
            shards.require_tokenizer(wanted, f"{section}.sources.{name}.path={path}, against the model in {model}")
            opened[name] = shards
        return opened

    data = open_all("data", {n: s.path for n, s in recipe.data.sources.items()})
    return data, open_all("heldout", {n: s.path for n, s in recipe.heldout.sources.items()})


def _loader(recipe: Recipe, shards: dict[str, Shards], world: World) -> Loader:
    d = recipe.data
    return Loader(
        shards, specs=[SourceSpec(n, s.weight, s.max_repeats) for n, s in d.sources.items()], seq_len=d.seq_len, packing=d.packing, long_documents=d.long_documents,
        seed=d.seed, rows_per_step=recipe.rows_per_step, micro_batch_rows=recipe.micro_batch, rank=world.rank, world_size=world.size, prefetch_steps=PREFETCH_STEPS, workers=d.workers,
    )  # fmt: skip


def _machine(recipe: Recipe, engine: Engine, world: World) -> Machine:
    config = engine.model.hf.config
    dense = flops_per_token(config, engine.total_parameters, 0)
    peak = recipe.logging.peak_tflops
    if peak is None and world.device.type == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(world.device))
    return Machine(world.size, recipe.data.seq_len, dense, flops_per_token(config, engine.total_parameters, 1) - dense, peak)


def _write_run_files(recipe: Recipe, folder: Path, fingerprint: str, world: World) -> None:
    if world.rank == 0:
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        write_durably(recipe.run_dir / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False))
        config = merged_config(recipe, world.size, world.device.type == "cuda")
        write_durably(recipe.run_dir / "deepspeed.json", json.dumps(config, indent=2) + "\n")
        base = {"path": recipe.model.path, "folder": str(folder), "fingerprint": fingerprint}
        write_durably(recipe.run_dir / "base_model.json", json.dumps(base, indent=2) + "\n")
