"""May this recipe go on from that checkpoint? Two recipes compared, sorted into safe and changes-the-result."""

from __future__ import annotations

from typing import Any

# dotted prefixes whose change leaves losses as they were (up to the rounding of another kernel or another split)
SAFE = (
    "name", "runs", "micro_batch", "deepspeed", "logging", "checkpoint", "guard", "heldout", "data.workers", "optim.kernel", "model.path",
    "model.attention", "model.activation_checkpointing", "model.activation_budget", "model.compile", "model.fused_kernels", "model.loss_chunk", "model.fingerprint", "model.max_start_loss",
)  # fmt: skip


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def is_safe(key: str) -> bool:
    # where shards lie is safe: what they hold is compared by the plan's fingerprint
    return key.endswith(".path") or any(key == p or key.startswith(p + ".") for p in SAFE)


def differences(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(safe, changing) lines `key: old → new` between a checkpoint's recipe and the present one."""
    a, b = flatten(old), flatten(new)
    safe, changing = [], []
    for key in sorted(set(a) | set(b)):
        if a.get(key) != b.get(key):
            (safe if is_safe(key) else changing).append(f"{key}: {a.get(key, 'not set')} → {b.get(key, 'not set')}")
    return safe, changing


def refusal(changing: list[str], safe: list[str], allow: tuple[str, ...], folder: str) -> str | None:
    """The message that refuses a resume, or None when it may go on."""
    blocked = [line for line in changing if not any(line.split(":")[0] == a or line.startswith(a + ".") for a in allow)]
    if not blocked:
        return None
    keys = ", ".join(line.split(":")[0] for line in blocked)
    text = [f"{folder}: the recipe has changed since; going on would change the result", "  changes the result:"]
    text += [f"    {line}" for line in blocked]
    if safe:
        text += ["  safe:"] + [f"    {line}" for line in safe]
    text += [f"  put the old values back, start anew under another name=, or accept the change with checkpoint.allow='[{keys}]'"]
    return "\n".join(text)
