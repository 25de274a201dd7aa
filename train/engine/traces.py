"""DeepSpeed's record of the order in which modules run, one for each way of running a model.

From that order ZeRO-3 fetches weights ahead and knows which of them to keep for the backward pass. It holds one order at a time and drops it
when another comes, yet goes on using the answers it has worked out from the old one: a run that was evaluated once lets go of every weight
after its forward and gathers it a second time for the backward, for the rest of the run. So a step, an evaluation and an answer each have
an order of their own here, exchanged where one follows the other.
"""

from __future__ import annotations

from typing import Any, Literal

Way = Literal["step", "losses", "logits"]

_PREFIX = "_PartitionedParameterCoordinator__"
_ORDER = ("trace_mode", "submodule_order", "param_order", "step_id_module_fetched_for")  # what a record consists of


class Traces:
    """The records of one ZeRO-3 engine; it begins with the step's."""

    def __init__(self, coordinator: Any):
        self._coordinator = coordinator
        self._way: Way = "step"
        self._kept: dict[Way, dict[str, Any]] = {}

    def follow(self, way: Way, whole: bool = True) -> None:
        """Called before each forward pass, by all ranks alike.

        Args:
            whole: the module that DeepSpeed was given is called itself, which tells it that a pass begins.
        """
        c = self._coordinator
        if way != self._way:
            c._clean_inflight_param_registry()
            self._kept[self._way] = {name: getattr(c, _PREFIX + name) for name in _ORDER}
            c._clear_trace_structures()
            for name, value in self._kept.pop(way, {"trace_mode": _no_trace()}).items():
                setattr(c, _PREFIX + name, value)
            _forget_what_to_release(c)
            self._way = way
        if not whole:
            c.reset_step()


def _no_trace() -> Any:
    from deepspeed.runtime.zero.partitioned_param_coordinator import ZeRoTraceMode

    return ZeRoTraceMode.INVALID


def _forget_what_to_release(coordinator: Any) -> None:
    """Empty DeepSpeed's cache of which weights to let go of after which module: its keys do not say of which order."""
    for cell in getattr(type(coordinator), _PREFIX + "params_to_release").__closure__:
        if hasattr(cell.cell_contents, "cache_clear"):
            return cell.cell_contents.cache_clear()
    raise AssertionError("DeepSpeed's cache of parameters to release is not where it was")
