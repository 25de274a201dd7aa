"""From a recipe to all that a run holds, or to one message that says why it cannot start.

1. the ranks meet; the run's folder is locked; the checkpoint to go on from, if any, is found and may be gone on from;
2. data are opened and verified; the memory plan fits; a save is rehearsed: what would fail later fails here;
3. the engine is started from the model's or the checkpoint's weights, and trainer state and position are put back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from data_tools.shards.fingerprint import tokenizer_fingerprints
from data_tools.shards.reader import Shards
from train.checkpoint import find, rehearsal, trainer_state
from train.checkpoint import folder as checkpoint
from train.checkpoint.retention import Keep
from train.checkpoint.saver import Saver
from train.checkpoint.state import read_state, state_of_run
from train.data.chat_format import ChatFormat
from train.data.loader import Loader
from train.engine import zero3
from train.engine.deepspeed_json import merged_config
from train.engine.zero3 import Engine
from train.evaluation.completion import Prompts, load_tokenizer
from train.evaluation.heldout import Heldout
from train.guard import limits, outcome, replay, run_lock
from train.guard.signals import Stops
from train.guard.spikes import Ladder, Memory, Rules
from train.guard.stragglers import ProductTimes, Stragglers
from train.model.causal_lm import config_of, decoder_layers
from train.model.flops import flops_per_token
from train.model.support import require_supported
from train.model_files.adapter import is_adapter
from train.model_files.companions import companion_names
from train.model_files.dtypes import OF_RECIPE, in_torch
from train.model_files.fetch import resolve
from train.model_files.shapes import described
from train.preflight import installed, memory_plan
from train.preflight.epochs import data_settings
from train.preflight.memory_items import Shape
from train.preflight.unready import beyond_positions
from train.recipe import changes
from train.recipe.vocabulary import Recipe, RecipeError
from train.run import quantized, rewind_record, start_weights
from train.run.goodput import Goodput, process_start
from train.run.metrics_log import MetricsLog, heldout_before
from train.run.rates import Flops
from train.run.start_weights import BaseModel
from train.run.state import TrainState
from train.run.trackers import Tracker
from train.world import garbage
from train.world.machine import peak_tflops
from train.world.output import keep_log
from train.world.places import is_remote, local_copy, place, write_durably
from train.world.ranks import World
from train.world.voice import note


@dataclass(frozen=True)
class Started:
    """All that a run holds, at the step it begins with."""

    recipe: Recipe
    world: World
    base: BaseModel
    engine: Engine
    loader: Loader
    heldout: Heldout
    log: MetricsLog
    saver: Saver
    ladder: Ladder
    state: TrainState
    resumed: bool
    record: outcome.Record
    goodput: Goodput
    stragglers: Stragglers
    products: ProductTimes

    def extras(self, state: TrainState, probe: dict[str, torch.Tensor]) -> checkpoint.Extras:
        """What goes into a checkpoint taken now."""
        content = _content(self.recipe, self.world, state, self.loader.state_dict(), self.engine.kernel)
        content["guard"] = self.ladder.memory.to_dict()
        return dataclasses.replace(_extras(self.recipe, self.base, content), probe=probe)


@contextmanager
def start(recipe: Recipe, world: World, resume_from: str, stops: Stops) -> Iterator[Started]:
    """A started run; what it holds is given back when the context ends, however it ends."""
    if faults := list(installed.absent_trackers(recipe)):
        raise RecipeError(recipe.name, faults)
    stops.limits = _limits(recipe, world, stops)
    world.connect(recipe.guard.timeout_seconds)
    stops.join(world)
    with ExitStack() as held:
        if lock := run_lock.take(recipe.run_dir, world):
            held.callback(lock.close)
        world.beat.phase("opening")  # from here on the run's folder is ours
        stops.record = record = held.enter_context(outcome.recorded(recipe.run_dir, world))
        held.enter_context(stops.not_hidden())  # within the record: what an end breaks is not the run's failure
        root = place(recipe.checkpoints)
        stops.clear = lambda: _clear_start(recipe, root)
        _tell_checkpoint(record, world, _published(root) if world.rank == 0 else None)  # until it is known which verifies
        rewinds = rewind_record.settle(recipe.run_dir, root, world)
        decided = replay.recorded(recipe.guard.replay) if recipe.guard.replay else None
        found, saved = _checkpoint(recipe, root, resume_from, world)
        _tell_checkpoint(record, world, found)
        model = None if recipe.adapter else found  # an adapter's checkpoint is none of a model: the base is where it was
        weights = model or resolve(recipe.model.path, world)
        # a copy: the checkpoint gone on from will be deleted when it is old, and every save takes the small files along
        folder = (
            local_copy(weights, companion_names(weights), recipe.run_dir / "resumed_from", world)
            if model or is_remote(weights)
            else weights
        )
        shards, heldout_shards = _open_data(recipe, folder, world)
        base = start_weights.of(recipe, weights, folder, ChatFormat.of(shards.values()), found, world)
        _preflight(recipe, base, root, world)
        world.beat.phase("loading")
        engine, fingerprint = _engine(recipe, base, len(shards), world)
        base = dataclasses.replace(base, fingerprint=fingerprint)
        loader = Loader(shards, data_settings(recipe), world.rank, world.size)
        held.callback(loader.close)
        if loader.plans.dropped_documents:
            world.log0(f"data.long_documents=drop: {loader.plans.dropped_documents:,} documents longer than a row are left out")
        state = TrainState()
        if saved:
            trainer_state.load(engine, found, world)
            loader.load_state_dict(saved["loader"])
            state = TrainState.of(saved, world.broadcast(heldout_before(recipe.run_dir)))
            if not world.broadcast((recipe.run_dir / "recipe.yaml").is_file()):  # under a name of its own it is another run
                _write_run_files(recipe, base, world)
            _keep_log(recipe, world)
            world.log0(f"resumed from {found}: step {state.step}, {state.tokens:,} tokens")
        else:
            loader.require_tokens(recipe.total_steps * recipe.tokens_per_step)
            _write_run_files(recipe, base, world)
            _keep_log(recipe, world)
        ladder = _ladder(recipe, loader, decided, rewinds, (saved or {}).get("guard", {}))
        if recipe.model.quantize != "none" and not saved:
            world.log0(quantized.compare(recipe, base, engine, loader, world))
        trackers = [Tracker(to, recipe, anew=resume_from == "never") for to in recipe.logging.to if world.rank == 0 and to != "tensorboard"]
        flops = _flops(recipe, engine, world)
        log = MetricsLog(recipe.run_dir, world, flops, recipe.logging, recipe.total_steps, state.step, trackers)
        held.push(lambda kind, *_: log.close(failed=kind is not None))
        log.rewinds(made.line for made in rewinds)
        accounts = _accounts(recipe, engine, log, world)
        held.enter_context(garbage.collected_by_hand())
        c = recipe.checkpoint
        saver = Saver(engine, root, Keep(c.keep_last, c.keep_every, c.keep_best), world, c.background)
        saver.newest = found
        record.step = state.step
        held.callback(saver.abandon)
        h = recipe.heldout
        prompts = Prompts(h.prompts, h.prompt_tokens, load_tokenizer(folder, base.chat), base.chat) if h.prompts else None
        heldout = Heldout(engine, world, heldout_shards, recipe.data.seq_len, h.max_rows, recipe.micro_batch, prompts)
        with world.beat.failing():
            yield Started(recipe, world, base, engine, loader, heldout, log, saver, ladder, state, found is not None, record, *accounts)


def _published(root: Path) -> Path | None:
    """The newest checkpoint there is, verified or not; None, too, where that cannot be told: who looks for it in earnest says why."""
    with contextlib.suppress(OSError):
        complete = find.steps_in(root)
        return complete[max(complete)] if complete else None
    return None


def _tell_checkpoint(record: outcome.Record, world: World, newest: Path | None) -> None:
    """What stands, to those who tell how the run ended."""
    record.checkpoint = newest
    if newest:
        world.beat.checkpoint(str(newest))


def _ladder(
    recipe: Recipe, loader: Loader, decided: replay.Record | None, rewinds: list[rewind_record.Rewind], saved: dict[str, Any]
) -> Ladder:
    """The rules for steps that go wrong, with what they remember; the loader leaves out what was decided before."""
    g = recipe.guard
    rules = Rules(
        zscore=g.spike_zscore, window=g.spike_window, nonfinite_in_a_row=g.max_nonfinite_in_a_row, skipped_of_1000=g.max_skipped_of_1000,
        rewind_after=g.rewind_after, max_rewinds=g.max_rewinds,
    )  # fmt: skip
    ladder = Ladder(rules, decided)
    if rewinds:
        rewind_record.leave_out(loader, rewinds[-1].left_out, rewinds[-1].plans, str(recipe.run_dir / rewind_record.FOLDER))
    if decided:
        rewind_record.leave_out(loader, decided.left_out, decided.plans, f"guard.replay={g.replay}")
    known = max(saved.get("rewinds", 0), rewinds[-1].number if rewinds else 0, decided.rewinds if decided else 0)
    ladder.memory = Memory.of({**saved, "rewinds": known})
    return ladder


def _accounts(recipe: Recipe, engine: Engine, log: MetricsLog, world: World) -> tuple[Goodput, Stragglers, ProductTimes]:
    """Where the run's time goes, and which rank holds it up."""
    goodput = Goodput(recipe.run_dir, process_start())
    goodput.taken_back(log.taken_back, "repeated")
    products = ProductTimes(decoder_layers(engine.model.hf), world.device.type == "cuda", recipe.model.compile)
    return goodput, Stragglers(world.gather(socket.gethostname())), products


def _checkpoint(recipe: Recipe, root: Path, resume_from: str, world: World) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to go on from and its state.json.

    Raises:
        ResumeError: going on would change the result.
    """
    found = find.find(root, resume_from, world)
    if not found:
        return None, None
    saved = read_state(found)
    if is_adapter(found) != (recipe.adapter is not None):
        of, wanted = (
            ("an adapter's", "take up the adapter section it was made with") if is_adapter(found) else ("a model's", "leave adapter out")
        )
        raise find.ResumeError(f"{found}: {of} checkpoint; {wanted}, or start anew under another name=")
    safe, changing = changes.differences(saved["recipe"], recipe.to_dict())
    if message := changes.refusal(changing, safe, recipe.checkpoint.allow, str(found)):
        raise find.ResumeError(message)
    for difference in safe + changing:
        world.log0(f"changed since the checkpoint: {difference}")
    return found, saved


def _open_data(recipe: Recipe, model: Path, world: World) -> tuple[dict[str, Shards], dict[str, Shards]]:
    """Every folder of shards, verified by hash (the ranks share the work) and of the model's tokenizer."""
    wanted = tokenizer_fingerprints(model)

    def open_all(section: str, paths: dict[str, Path]) -> dict[str, Shards]:
        opened = {}
        for name, path in paths.items():
            shards = Shards.open(path, part=(world.rank, world.size))
            shards.require_tokenizer(wanted, f"{section}.sources.{name}.path={path}, against the model in {model}")
            opened[name] = shards
        return opened

    files = len(recipe.data.sources) + len(recipe.heldout.sources)
    world.log0(
        f"verifying {files} folders of shards: {', '.join([*recipe.data.sources, *(f'{n} (held out)' for n in recipe.heldout.sources)])}"
    )
    data = open_all("data", {n: s.path for n, s in recipe.data.sources.items()})
    return data, open_all("heldout", {n: s.path for n, s in recipe.heldout.sources.items()})


def _preflight(recipe: Recipe, base: BaseModel, root: Path, world: World) -> None:
    """What would end the run later: a model that is not computed here, memory that is not there, a save that cannot be made."""
    world.log0("checking model, memory and disk")
    require_supported(config_of(base.folder), recipe.data.seq_len, f"model.path={recipe.model.path}")
    if warning := beyond_positions(base.folder, recipe.data.seq_len):
        world.log0(f"warning: {warning}")
    model, spec = (
        described(base.folder / "config.json", own_code="ignored"),
        base.spec,
    )  # the rehearsal refuses it, with all else that is wrong
    shape = Shape.of(model, spec)
    for line in memory_plan.require(recipe, shape, world):
        (note if memory_plan.is_item(line) else world.log0)(line)
    begun = time.perf_counter()
    content = _content(recipe, world, TrainState(), {}, "rehearsal")
    rehearsal.run(root, _extras(recipe, base, content), torch.float32 if spec else in_torch(OF_RECIPE[recipe.model.dtype]), world, spec)
    world.log0(f"a save into {root} was rehearsed in {time.perf_counter() - begun:.1f} s")


def _engine(recipe: Recipe, base: BaseModel, sources: int, world: World) -> tuple[Engine, str]:
    """The engine, and the fingerprint of the weights it was started with."""
    torch.manual_seed(recipe.seed)
    world.log0(f"starting the engine with the weights of {base.weights}")
    engine, loaded, said = zero3.start(recipe, world, base.weights, sources, base.folder, base.adapter)
    trained = f", {engine.trained_parameters:,} of them trained," if recipe.adapter else ""
    world.log0(
        f"{recipe.name}: {engine.total_parameters:,} parameters{trained} over {world.size} ranks from {base.weights}; "
        f"weights fingerprint {loaded.fingerprint}"
    )
    for line in start_weights.compared(recipe, base, loaded.fingerprint):
        world.log0(line)
    world.log0(said)
    config = merged_config(recipe, world.size, world.device.type == "cuda")
    if padding := config["train_batch_size"] - recipe.rows_per_step:
        world.log0(
            f"{recipe.rows_per_step} rows a step do not divide among {world.size} ranks x micro_batch={recipe.micro_batch}: {padding} rows of "
            "padding are computed beside them; the step learns from the same rows as at any number of ranks"
        )
    return engine, loaded.fingerprint


def _content(recipe: Recipe, world: World, state: TrainState, loader: dict[str, Any], adam_kernel: str) -> dict[str, Any]:
    return state_of_run(dataclasses.asdict(state), loader, recipe.to_dict(), world.size, adam_kernel)


def _extras(recipe: Recipe, base: BaseModel, content: dict[str, Any]) -> checkpoint.Extras:
    instead = base.chat.model_files(base.folder) if base.chat else {}
    if base.spec:
        instead |= start_weights.adapter_files(recipe, base)
    return checkpoint.Extras(content, base.folder, instead, trainer_state=recipe.checkpoint.trainer_state)


def _flops(recipe: Recipe, engine: Engine, world: World) -> Flops:
    config = engine.model.hf.config
    total, frozen = engine.total_parameters, engine.frozen_parameters
    dense = flops_per_token(config, total, 0, frozen)
    peak = recipe.logging.peak_tflops
    if peak is None and world.device.type == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(world.device))
    return Flops(world.size, recipe.data.seq_len, dense, flops_per_token(config, total, 1, frozen) - dense, peak)


def _limits(recipe: Recipe, world: World, stops: Stops) -> limits.Limits:
    g = recipe.guard
    return limits.of(g.grace_seconds, g.minutes, world.job_ends_at, time.time(), time.monotonic(), stops.begun)


def _clear_start(recipe: Recipe, root: Path) -> None:
    """A start that is ended leaves its words, and nothing half made."""
    with contextlib.suppress(OSError):
        keep_log(recipe.run_dir / "log.txt")
        checkpoint.clear_leftovers(root)
        if not is_remote(root):
            root.rmdir()


def _keep_log(recipe: Recipe, world: World) -> None:
    if world.rank == 0:
        keep_log(recipe.run_dir / "log.txt")


def _write_run_files(recipe: Recipe, base: BaseModel, world: World) -> None:
    if world.rank == 0:
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        write_durably(recipe.run_dir / "recipe.yaml", yaml.safe_dump(recipe.to_dict(), sort_keys=False))
        config = merged_config(recipe, world.size, world.device.type == "cuda")
        write_durably(recipe.run_dir / "deepspeed.json", json.dumps(config, indent=2) + "\n")
        write_durably(recipe.run_dir / "base_model.json", json.dumps(start_weights.identity(recipe, base), indent=2) + "\n")
