"""The spike ladder under `deepspeed`, as its user meets it: skip, rewind, stop; killed amid a rewind; a replay with the same bits (`make soak`)."""

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.made import processes, spiky
from tests.made.where import ROOT

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(1800)]
BIN = Path(sys.executable).parent
STEPS = 16
SPIKING = (10, 11, 12, 20)  # back to step 6 then; the rows of step 20 come in step 14
DOOR = 'import sys\nsys.path.insert(0, "{root}")\nfrom launch.pretrain import main\nfrom tests.made import spiky\nspiky.marks_are_not_finite()\nsys.exit(main())\n'


def command(door: Path | str, recipe: Path, *words: str) -> list:
    return [BIN / "deepspeed", "--num_gpus", 2, "--master_port", processes.free_port(), door, recipe, *words]


def environment() -> dict[str, str]:
    return os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}


def launched(*words, ends_with: int = 0) -> str:
    """What the command said."""
    done = processes.run(command(*words), seconds=600, env=environment())
    assert done.returncode == ends_with, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def lines(run: Path) -> list[dict]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def rewinds(run: Path) -> list[tuple[int, int, list]]:
    return [(line["step"], line["from_step"], line["left_out"]) for line in lines(run) if line.get("event") == "rewind"]


def told(run: Path) -> list[tuple]:
    """Of every step, in order, what it came to, and whether it was skipped."""
    return [(line["step"], line["loss"], line["grad_norm"], line["skipped"]) for line in lines(run) if "loss" in line]


def weights(run: Path, step: int = STEPS) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"step_{step:06d}"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def test_spikes_are_skipped_and_gone_back_from_also_when_killed_amid_it_and_a_replay_has_the_same_bits(tmp_path):
    folder = spiky.ground(tmp_path, random_steps=SPIKING)
    recipe, door, runs = folder / "recipe.yaml", "launch/pretrain.py", folder / "runs"
    said = launched(door, recipe, "name=spikes")
    assert [step for step, *_, skipped in told(runs / "spikes") if skipped] == [14]
    assert rewinds(runs / "spikes") == [(6, 12, [[0, 24, 48]])]
    assert [word for word in ("step 10/16  SKIPPED", "step 12/16  SKIPPED", "step 14/16  SKIPPED") if word not in said] == []
    print("\n".join(line for line in said.splitlines() if "SKIPPED" in line or "rewind" in line), file=sys.__stderr__)

    launched(
        door, recipe, "name=replay", f"guard.replay={runs / 'spikes' / 'metrics.jsonl'}", "guard.spike_zscore=null", "guard.max_rewinds=0"
    )
    assert weights(runs / "replay") == weights(runs / "spikes") and len(weights(runs / "replay")) >= 3
    assert [t[:3] for t in told(runs / "replay")] == [t[:3] for t in told(runs / "spikes")]

    supervised = processes.start(
        [sys.executable, "launch/supervise.py", "--wait", 1, "--", *command(door, recipe, "name=killed")],
        env=environment(),
        **processes.QUIET,
    )
    processes.wait_until(lambda: (runs / "killed" / "rewinds" / "0001.json").exists(), supervised, seconds=300)
    for p in psutil.Process(supervised.pid).children(recursive=True):
        if "name=killed" in p.cmdline() and p.cmdline()[2:3] == [door]:
            p.kill()
    assert supervised.wait(600) == 0
    assert weights(runs / "killed") == weights(runs / "spikes") and told(runs / "killed") == told(runs / "spikes")
    assert rewinds(runs / "killed") == rewinds(runs / "spikes")
    assert json.loads((runs / "killed" / "outcome.json").read_text())["attempt"] > 1, "it was killed"


def test_steps_that_are_not_finite_are_skipped_gone_back_from_and_one_rewind_too_many_names_the_documents(tmp_path):
    guard = {"rewind_after": 3, "rewind_steps": 1, "max_rewinds": 1}
    folder = spiky.ground(tmp_path, marked_steps=(5, 6, 7), steps=8, guard=guard)
    recipe, runs, door = folder / "recipe.yaml", folder / "runs", folder / "launch" / "pretrain.py"
    door.parent.mkdir()
    door.write_text(DOOR.format(root=ROOT))
    launched(door, recipe, "name=back")
    assert rewinds(runs / "back") == [(2, 7, [[0, 12, 28]])] and not any(skipped for *_, skipped in told(runs / "back"))
    launched(door, recipe, "name=replay", f"guard.replay={runs / 'back' / 'metrics.jsonl'}", "guard.max_rewinds=0")
    assert weights(runs / "replay", 8) == weights(runs / "back", 8)
    said = launched(door, recipe, "name=twice", "guard.rewind_after=1", ends_with=1)
    assert "1 step skipped in a row again, after 1 rewind" in said and "Documents of this step: a/a-" in said
    [report] = [json.loads(p.read_text()) for p in (runs / "twice" / "faults").glob("*.json")]
    assert report["kind"] == "raised" and "after 1 rewind" in report["cause"]
    after = [line for line in said.splitlines() if line.startswith(("fault:", "  "))]
    print("\n".join(after), file=sys.__stderr__)
    assert said.count("fault: ") == 1 and len(after) <= 12
