"""The run, top to bottom: start, then step after step, evaluations and saves between them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from train.checkpoint.folder import predicted_bytes
from train.checkpoint.layout import PROBE
from train.engine import step
from train.evaluation import probe
from train.guard import limits, outcome
from train.guard.signals import Stop, Stops
from train.guard.spikes import stopped
from train.model_files.dtypes import OF_RECIPE, in_torch
from train.model_files.folder import WeightsError
from train.recipe.schedule import learning_rate
from train.recipe.vocabulary import Recipe, RecipeError
from train.run.rates import StepNumbers
from train.run.rewind import newest_to_go_back_to, rewind
from train.run.start import Started, start
from train.run.state import TrainState
from train.world import garbage
from train.world.beat import DOCUMENTS_TOLD
from train.world.ranks import World


@dataclass(frozen=True)
class Outcome:
    """How a run ended. finished: all steps are done and evaluated; otherwise it was asked to stop, by what and with what is said.

    rule: the rule of heldout.stop_if that ended it, in words; empty where none did.
    """

    state: TrainState
    finished: bool
    checkpoint: Path | None
    said: str
    rule: str = ""


def run(recipe: Recipe, world: World, resume_from: str = "auto", stops: Stops | None = None) -> Outcome:
    """Train. Every rank calls it; raises the ValueErrors of its parts with place, value and remedy.

    Args:
        stops: what has listened for signals since the process began; None: a listener of its own.
    """
    with nullcontext(stops) if stops else Stops() as stops, stops.not_hidden(), start(recipe, world, resume_from, stops) as started:
        loader, saver, ladder = started.loader, started.saver, started.ladder
        started.goodput.spent("start", time.time())
        state = started.state
        if not started.resumed:
            state, _ = _evaluate(started, state)
            _require_sane_start(recipe, state)
        elif state.step < recipe.total_steps and (rule := "; ".join(state.broken(recipe.heldout.stop_if))):
            return _outcome(started, stops, state, None, rule)

        stops.needed = lambda: limits.needed_seconds(_save_seconds(started), step_seconds)
        step_seconds, evaluated, ended, rule = 0.0, True, None, ""
        stops.train(world)
        pending = ladder.verdict(state.step).ends_here
        if started.resumed and state.step == recipe.total_steps and not pending and not (saver.newest / PROBE).is_file():
            state, evaluated, ended, _ = _after_step(started, stops, state, stop=False)  # its last evaluation was cut

        def own() -> dict[str, float]:
            slow = started.stragglers.mine(world.rank, loader.data_wait_seconds, started.products.taken())
            return {"stop": stops.wanted(), "save failed": saver.failed, step.NEXT_TARGETS: loader.next_targets(), **slow}

        def before_update(agreed: dict[str, float]) -> None:
            if agreed["save failed"]:
                saver.finish()  # raises what the save behind the steps has ended in
            saver.before_update()

        while not ended and not rule:
            state = _heed(started, state)
            if state.step >= recipe.total_steps:  # beyond: the recipe was cut short since, as checkpoint.allow lets it
                break
            begun = time.perf_counter()
            state, stop = _take_step(started, state, own, before_update)
            if ladder.verdict(state.step).ends_here and not stop:
                continue  # what this step leaves is not worth an evaluation or a checkpoint
            state, evaluated, ended, rule = _after_step(started, stops, state, stop)
            step_seconds = time.perf_counter() - begun
        saver.finish()
        started.goodput.spent("saving", time.time())
        whole = evaluated and state.step >= recipe.total_steps and (not ended or ended.save)
        return _outcome(started, stops, state, None if whole or rule else ended, rule)


def _heed(started: Started, state: TrainState) -> TrainState:
    """What follows from steps that went wrong: nothing, a rewind, or the end.

    Raises:
        SpikeError: it is the end.
    """
    follows = started.ladder.verdict(state.step)
    if follows.stop:
        documents = started.loader.documents_in(started.loader.rows_of_last_steps(1))
        raise stopped(state.step, follows.stop, [f"{source}/{id}" for source, id, _, _ in documents])
    if follows.rewind:
        state = rewind(started, state)
        started.engine.next_targets = None  # of another step
        started.goodput.spent("rewound", time.time())
    return state


def _take_step(
    started: Started, state: TrainState, own: Callable[[], dict[str, float]], before_update: Callable[[dict[str, float]], None]
) -> tuple[TrainState, bool]:
    """One step, and what is told of it; returns whether a stop is wanted, too."""
    world, loader = started.world, started.loader
    begun = time.perf_counter()
    loader.data_wait_seconds = 0.0
    lr = learning_rate(started.recipe, state.step)
    started.engine.set_lr(lr)
    world.beat.at_step(state.step + 1)
    batches = loader.next_step()
    world.beat.documents(*loader.rank_documents(DOCUMENTS_TOLD))
    accept = functools.partial(started.ladder.accepts, state.step + 1)
    totals = step.take(started.engine, batches, loader.source_names, world, own, before_update, accept)
    state = state.after(totals)
    judged = started.ladder.note(state.step, totals.loss, totals.grad_norm, totals.updated)
    garbage.collect(state.step)
    seconds = time.perf_counter() - begun
    data_wait = max(totals.agreed[f"data {rank}"] for rank in range(world.size))
    started.goodput.step(time.time(), data_wait, bool(judged.skip))
    slowest, words = started.stragglers.note(totals.agreed, seconds)
    if words:
        world.log0(f"step {state.step}  {words}")
    of_run = {"goodput": started.goodput.share} | ({"slowest_rank": slowest.rank, "slowest_cost": slowest.cost} if world.size > 1 else {})
    started.log.step(StepNumbers(
        step=state.step, loss=totals.loss, lr=lr, grad_norm=totals.grad_norm, tokens=state.tokens, step_tokens=totals.tokens,
        supervised=totals.supervised, seconds=seconds, wait_seconds=data_wait, attended=totals.attended, skipped=bool(judged.skip),
        why=judged.skip, deviations=judged.deviations, run=of_run, source_losses=totals.source_losses,
    ))  # fmt: skip
    if world.rank == 0:
        started.goodput.write(time.time())
    return state, totals.agreed["stop"] > 0


def _after_step(started: Started, stops: Stops, state: TrainState, stop: bool) -> tuple[TrainState, bool, Stop | None, str]:
    """What is due: an evaluation, which a stop cuts short, and a save, which it does not.

    Returns whether it was evaluated, the stop, and the rule of the recipe that ends the run, in words.
    """
    recipe, world, saver = started.recipe, started.world, started.saver
    last, evaluated, ended, rule = state.step == recipe.total_steps, False, None, ""
    if (last or _due(recipe.heldout.every_steps, state)) and not stop:
        state, evaluated = _evaluate(started, state, lambda: stops.agreed(world))
        stop = stops.agreed(world)
        rule = "; ".join(state.broken(recipe.heldout.stop_if)) if evaluated and not last else ""
    if stop:
        measured = started.record.save_seconds
        ended = stops.agree(world, measured and measured * (1 + saver.busy), str(saver.newest) if saver.newest else None)
        rule = rule if ended.save else ""  # the next start evaluates again, and finds it
    if (last or stop or rule or _due(recipe.checkpoint.every_steps, state)) and not (ended and not ended.save):
        # where it was evaluated, one forward more beside those of the evaluation
        recorded = probe.record(started.engine, started.loader.shards[0].tokens(0), world) if evaluated else {}
        saver.save(started.extras(state, recorded), newest_to_go_back_to(recipe, state.step, started.ladder.memory.in_a_row))
        started.goodput.spent("saving", time.time())
        if not ended and stops.agreed(world):
            ended = Stop(stops.why(world), save=True)
        started.record.step, started.record.checkpoint = state.step, saver.newest
    started.record.save_seconds = saver.last_seconds or started.record.save_seconds
    return state, evaluated, ended, rule


def _save_seconds(started: Started) -> float:
    element = 4 if started.recipe.adapter else in_torch(OF_RECIPE[started.recipe.model.dtype]).itemsize
    nbytes = predicted_bytes(started.engine.trained_parameters, element, started.recipe.checkpoint.trainer_state)
    return limits.save_seconds(started.record.save_seconds, nbytes)


def _outcome(started: Started, stops: Stops, state: TrainState, ended: Stop | None, rule: str = "") -> Outcome:
    """How it ended, in outcome.json and in a line."""
    record, newest = started.record, started.saver.newest
    record.step, record.checkpoint = state.step, newest
    if rule:
        record.end("stopped", outcome.RULED, f"heldout.stop_if: {rule}")
        said = (
            f"stopped at step {state.step} of {started.recipe.total_steps} by heldout.stop_if: {rule}; saved; model and checkpoint: {newest}; the same "
            "command ends here again, one with another heldout.stop_if goes on; report.html names the best checkpoint"
        )
    elif not ended:
        record.end("finished", outcome.FINISHED, "")
        said = f"done: {state.step} steps, {state.tokens:,} tokens; model and checkpoint: {newest}"
    else:
        record.end("preempted", outcome.PREEMPTED, ended.cause)
        saved = f"saved; model and checkpoint: {newest}" if ended.save else f"not saved: {ended.why_not}; {newest} stands"
        said = (
            f"stopped at step {state.step} of {started.recipe.total_steps} by {ended.cause}, {saved}; the same command goes on from there"
        )
    if started.world.rank == 0:
        started.goodput.write(time.time(), at_once=True)
    said += f"; {started.goodput.words()}"
    if spent := started.world.beat.of_steps():
        started.world.log0(f"time of the steps on rank 0: {spent}")
    stops.over()
    return Outcome(state, not ended and not rule, newest, said, rule)


def _due(every: int, state: TrainState) -> bool:
    return every > 0 and state.step % every == 0


def _evaluate(started: Started, state: TrainState, cut: Callable[[], bool] = lambda: False) -> tuple[TrainState, bool]:
    """The state with what was found, and whether the evaluation was whole."""
    started.world.beat.phase("evaluation")
    found = started.heldout.evaluate(cut)
    started.goodput.spent("evaluation", time.time())
    if found is None:
        return state, False
    started.log.answers(state.step, found.answers)
    started.log.heldout(state.step, state.tokens, found.scores)
    if not found.scores:
        return state, True
    return _judged(started, state.evaluated({name: score.loss for name, score in found.scores.items()}, started.recipe.heldout)), True


def _judged(started: Started, state: TrainState) -> TrainState:
    """The state as it is, once what its evaluation means for the recipe's rules is said.

    Raises:
        RecipeError: a rule of stop_if is broken before step 1.
    """
    heldout = started.recipe.heldout
    stopping, warned = state.broken(heldout.stop_if), state.broken(heldout.warn_if)
    if stopping and state.step == 0:
        raise RecipeError(
            started.recipe.name, [f"heldout.stop_if: {said}, and this is before step 1; raise it, or take it out" for said in stopping]
        )
    for said in [*(f"heldout.warn_if: {w}" for w in warned), *(f"heldout.stop_if: {s}" for s in stopping)]:
        started.world.log0(f"warning: step {state.step}  {said}")
    return state


def _require_sane_start(recipe: Recipe, state: TrainState) -> None:
    limit = recipe.model.max_start_loss
    if limit is not None and state.heldout_loss is not None and not state.heldout_loss <= limit:
        raise WeightsError(
            f"{recipe.model.path}: held-out loss before training is {state.heldout_loss:.3f}, model.max_start_loss={limit}; the weights are not what they "
            "should be, or the text is of another kind. Check the model folder and its tokenizer"
        )
