"""The run, top to bottom: start, then step after step, evaluations and saves between them."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from train.engine import step
from train.evaluation import probe
from train.guard import outcome
from train.guard.nonfinite import NonFiniteSteps
from train.guard.signals import Guard
from train.model_files.folder import WeightsError
from train.recipe.schedule import learning_rate
from train.recipe.vocabulary import Recipe
from train.run.rates import StepNumbers
from train.run.start import Started, TrainState, start
from train.world.beat import DOCUMENTS_TOLD
from train.world.ranks import World


@dataclass(frozen=True)
class Outcome:
    """How a run ended. finished: all steps are done; otherwise a signal stopped it after a save."""

    state: TrainState
    finished: bool
    checkpoint: Path | None


def run(recipe: Recipe, world: World, resume_from: str = "auto") -> Outcome:
    """Train. Every rank calls it; raises the ValueErrors of its parts with place, value and remedy."""
    with start(recipe, world, resume_from) as started, Guard(world) as guard:
        engine, loader, log, saver = started.engine, started.loader, started.log, started.saver
        nonfinite = NonFiniteSteps(recipe.guard.max_nonfinite_in_a_row)
        state = started.state
        if not started.resumed:
            state = _evaluate(started, state)
            _require_sane_start(recipe, state)

        def own() -> dict[str, float]:
            return {"stop": guard.stop_wanted(), "save failed": saver.failed, "wait seconds": loader.data_wait_seconds}

        def before_update(agreed: dict[str, float]) -> None:
            if agreed["save failed"]:
                saver.finish()  # raises what the save behind the steps has ended in
            saver.before_update()

        while state.step < recipe.total_steps:
            begun = time.perf_counter()
            loader.data_wait_seconds = 0.0
            lr = learning_rate(recipe, state.step)
            engine.set_lr(lr)
            world.beat.at_step(state.step + 1)
            batches = loader.next_step()
            world.beat.documents(*loader.rank_documents(DOCUMENTS_TOLD))
            totals = step.take(engine, batches, loader.source_names, world, own, before_update)
            state = state.after(totals)
            log.step(StepNumbers(
                step=state.step, loss=totals.loss, lr=lr, grad_norm=totals.grad_norm, tokens=state.tokens, step_tokens=totals.tokens,
                supervised=totals.supervised, seconds=time.perf_counter() - begun, wait_seconds=totals.agreed["wait seconds"] / world.size,
                attended=totals.attended, skipped=not totals.finite, source_losses=totals.source_losses,
            ))  # fmt: skip
            nonfinite.note(totals.finite, state.step, lambda: [f"{source}/{id}" for source, id, _, _ in loader.step_documents()])
            last, stop = state.step == recipe.total_steps, totals.agreed["stop"] > 0
            evaluated = last or _due(recipe.heldout.every_steps, state) and not stop
            if evaluated:
                state = _evaluate(started, state)
            if last or stop or _due(recipe.checkpoint.every_steps, state):
                # where it was evaluated, one forward more beside those of the evaluation
                saver.save(started.extras(state, probe.record(engine, loader.shards[0].tokens(0), world) if evaluated else {}))
            if stop:
                break
        saver.finish()
        started.record.step, started.record.checkpoint, started.record.save_seconds = state.step, saver.newest, saver.last_seconds or None
        finished = state.step >= recipe.total_steps
        if finished:
            started.record.end("finished", outcome.FINISHED, "")
        else:
            started.record.end("preempted", outcome.PREEMPTED, guard.signal or "a signal to another rank")
        return Outcome(state, finished, saver.newest)


def _due(every: int, state: TrainState) -> bool:
    return every > 0 and state.step % every == 0


def _evaluate(started: Started, state: TrainState) -> TrainState:
    started.world.beat.phase("evaluation")
    found = started.heldout.evaluate()
    started.log.answers(state.step, found.answers)
    started.log.heldout(state.step, state.tokens, found.scores)
    return dataclasses.replace(state, heldout_loss=found.mean_loss) if found.scores else state


def _require_sane_start(recipe: Recipe, state: TrainState) -> None:
    limit = recipe.model.max_start_loss
    if limit is not None and state.heldout_loss is not None and not state.heldout_loss <= limit:
        raise WeightsError(
            f"{recipe.model.path}: held-out loss before training is {state.heldout_loss:.3f}, model.max_start_loss={limit}; the weights are not what they "
            "should be, or the text is of another kind. Check the model folder and its tokenizer"
        )
