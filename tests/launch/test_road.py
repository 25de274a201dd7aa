"""The road that README and recipe heads describe is there: each of their commands is given, to small stand-ins.

A GPU run is made with the recipe's own sources and paths, cut down to two steps (tests/made/road.py: SMALL), or as a dry run; what
needs a network, another machine or somebody's terminal is listed with its reason, and its flags are looked up in its help.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib
import io
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from launch.command import doors
from tests.made import pages, processes, road
from tests.made.checkpoints import write_manifest
from tests.made.ranks import run_ranks
from tests.made.where import ROOT
from train.recipe.load import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# pages in the order in which a reader needs what they make
ORDER = ("README.md", *(f"launch/recipes/{r}.yaml" for r in ("cpt_7b", "quickstart", "sft_7b", "sft_recommended_7b", "cpt_70b", "sft_70b")))
# recipes whose run is made, and on how many ranks; the others are dry runs
RUN = {"launch/recipes/cpt_7b.yaml": 1, "launch/recipes/sft_recommended_7b.yaml": 1, "launch/recipes/quickstart.yaml": 2}
STEPS = {"cpt_7b": (2000, 3000), "sft_7b": (), "sft_recommended_7b": ()}  # checkpoints the pages name, beside the last
ONLY_FLAGS = {  # a command that is not given here: why
    r"^(hf|pip) ": "network",
    r"^(\S+=\S+ )?make ": "sets up, trains the quickstart's own model, or runs this suite",
    r"^python -c ": "network",
    r"\bsrun\b|launch/supervise\.py|launch/outcome\.py|launch/doctor\.py|^bash |^sbatch |^kubectl ": "a cluster, or a run that goes wrong: tests of their own",
    r"--web\b": "serves until it is stopped: tests/launch/talk",
    r"evaluate\.py sweep": "a base and what was trained of it: tests/launch/measures/test_sweep.py",
    r"heldout\.stop_if": "needs evaluations along the run: tests/train/run/test_rules.py",
    r"chat\.py --results": "reads ratings: tests/launch/talk/test_many.py",
    r"launch/benchmark\.py": "minutes; tests/launch/test_benchmark.py",
    r"_lora/checkpoints": "an adapter: tests/train/run/test_adapter.py, tests/train/export/test_lora.py",
    r"name=quickstart_lora": "the same, of a tiny model: tests/train/run/test_adapter.py",
    r"launch/plan\.py.* --(table|measured|calibrate)": "a table, a measured run: tests/launch/test_plan.py, tests/train/preflight/planner",
    r"s3://": "an object store: tests/train/checkpoint/test_object_store.py",
    r"data_tools\.show --step": "tests/launch/test_documents.py",
    r"export_hf\.py old-model": "weights in torch's files: tests/train/foreign/torch_save",
    r"hf-trainer-output": "DeepSpeed's own folders: tests/train/foreign/deepspeed",
    r"^astrollama quickstart|^astrollama --help": "tests/launch/command",
    r" \S*…": "cut short in a sentence; it stands whole elsewhere",
}
PLACEHOLDERS = {"SHARDS": "shards/astro", "RECIPE.yaml": "launch/recipes/cpt_7b.yaml", "N": "8", "ID": "web-1", "HOST": "127.0.0.1"}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with all stand-ins, which is the working directory meanwhile."""
    folder, before = tmp_path_factory.mktemp("road"), Path.cwd()
    road.stand_ins(folder)
    os.chdir(folder)
    from data_tools.prepare import main as prepare

    for split in ("train", "heldout"):
        assert prepare(["corpus", f"{split}.jsonl", "--tokenizer", "DIR", "--out", f"runs/quickstart-data/{split}", "--workers", "1"]) == 0
    chats = [
        "chat",
        "answers.jsonl",
        "--tokenizer",
        "DIR",
        "--out",
        "runs/quickstart-chat-data",
        "--split",
        "heldout=0.1",
        "--workers",
        "1",
    ]
    assert prepare(chats) == 0
    yield folder
    os.chdir(before)


def test_every_command_of_the_pages_and_recipe_heads_ends_as_said(there):
    told = sorted(pages.commands(), key=lambda t: ORDER.index(t.page) if t.page in ORDER else len(ORDER))
    assert len(told) > 90 and {t.page for t in told} >= {*pages.PAGES, *ORDER}
    wrong, given, done = [], 0, set()
    for one in told:
        for command in one.command.split(" && "):
            if command in done or command.startswith(". "):
                continue
            done.add(command)
            reason = next((why for pattern, why in ONLY_FLAGS.items() if re.search(pattern, command)), None)
            try:
                fault = flags_fault(command) if reason else outcome(command)
            except (LookupError, StopIteration, AssertionError) as error:  # told with the rest
                fault = f"{type(error).__name__}: {error}"
            given += reason is None
            wrong += [f"{one.page}: {command}\n    {fault}"] if fault else []
    assert not wrong, "\n".join(wrong)
    assert given > 45


def test_checkpoints_that_pages_name_are_some_that_the_recipes_keep():
    named = {(t.page, *found) for t in pages.commands() for found in re.findall(r"runs/(\w+)/checkpoints/step_(\d+)", t.command)}
    assert len(named) >= 5
    for page, name, step in named:
        recipe = load(f"launch/recipes/{name}.yaml")
        assert int(step) == recipe.total_steps, f"{page}: {name} ends at step {recipe.total_steps}, not {step}"
    assert all(step % load("cpt_7b").checkpoint.keep_every == 0 for step in STEPS["cpt_7b"])


def outcome(command: str) -> str:
    """What is wrong with giving it, or nothing."""
    words = as_typed(command)
    if words[0] == "mkdir":
        os.makedirs(words[-1], exist_ok=True)
        return ""
    options, module, rest = door_of(words)
    if options is not None and (fault := launcher_fault(options)):
        return fault
    if not rest and module != "launch.doctor":
        rest = ["--help"]
    if module in ("launch.pretrain", "launch.sft") and "--keys" not in rest:
        return train(module, rest)
    clear(module, rest)
    if module == "launch.chat":
        rest = [*rest, "--max-new-tokens", "2"]
    if module == "data_tools.questions.make" and "--help" not in rest:
        rest = [*rest, *(["--dry-run"] if "--dry-run" not in rest else [])]
    elif "--executor" not in rest and module == "data_tools.prepare" and rest[0] in ("arxiv", "corpus", "chat"):
        rest = [*rest, "--workers", "1", *(["--buckets", "2"] if rest[0] == "arxiv" else [])] if len(rest) > 1 else [*rest, "--help"]
    fault = end_of(module, rest)
    if (into := re.search(r" > ([\w./-]+)$", command)) and not fault:
        Path(into[1]).write_text(end_of.said)
    return fault


def train(module: str, rest: list[str]) -> str:
    """The run, small, or its dry run; then checkpoints by the names that the pages give them."""
    given = {word.split("=")[0] for word in rest if "=" in word}
    rest = [word for word in rest if not word.startswith(("tokens=", "optim.lr="))]
    small = [f"{key}={value}" for key, value in road.SMALL.items() if key not in given]
    recipe, dry = rest[0], "--dry-run" in rest
    if dry or recipe not in RUN or given - {"model.path"}:
        fault = end_of(module, [*rest, *small, *([] if dry else ["--dry-run", "--gpus", "8"])])
        return fault or ("" if "all inputs are here" in end_of.said else f"inputs are missing:\n{end_of.said[-900:]}")
    codes = run_ranks(_door, RUN[recipe], str(Path.cwd()), module, [*rest, *small])
    run = load(recipe).run_dir
    if codes != [0] * len(codes) or not (made := run / "checkpoints" / "step_000002").is_dir():
        return f"exit codes {codes}"
    for step in (load(recipe).total_steps, *STEPS.get(run.name, ())):
        copied(made, run / "checkpoints", step)
    if run.name == "cpt_7b":
        for other in ("sft_7b", "cpt_70b"):
            copied(made, Path("runs") / other / "checkpoints", load(other).total_steps)
    return ""


def copied(checkpoint: Path, to: Path, step: int) -> None:
    folder = Path(shutil.copytree(checkpoint, to / f"step_{step:06d}"))
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"step": step}))
    write_manifest(folder, step)


def _door(world, folder: str, module: str, words: list[str]) -> int:
    os.chdir(folder)
    return importlib.import_module(module).main(words)


def as_typed(command: str) -> list[str]:
    """The shell's work: variables, patterns, redirection; and a reader's: placeholders."""
    words = shlex.split(re.split(r" > (?=[\w./-]+$)", re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command))[0])
    words = [PLACEHOLDERS.get(word, word) for word in words]
    return [found for word in words for found in (sorted(glob.glob(word)) if "*" in word and "'" not in command else [word])]


def door_of(words: list[str]) -> tuple[list[str] | None, str, list[str]]:
    """Options of DeepSpeed's launcher, None without it; the door's module; the door's words."""
    if words[0] == "astrollama":
        if words[1] != "launch":
            return None, doors.DOORS[words[1]][0], words[2:]
        at = next(k for k, word in enumerate(words) if word in doors.ON_RANKS)
        return words[2:at], doors.DOORS[words[at]][0], words[at + 1 :]
    if words[:2] == ["python", "-m"]:
        [module] = [m for m, _ in doors.DOORS.values() if m == words[2] or m.startswith(f"{words[2]}.")]
        return None, module, words[3:]
    at = next(k for k, word in enumerate(words) if word.startswith("launch/") and word.endswith(".py"))
    assert (ROOT / words[at]).is_file(), f"there is no {words[at]}"
    return words[1:at] if words[0] == "deepspeed" else None, words[at].removesuffix(".py").replace("/", "."), words[at + 1 :]


def launcher_fault(options: list[str]) -> str:
    from deepspeed.launcher.runner import parse_args

    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            parsed = parse_args([*options, "script.py"])
        except SystemExit:
            return said.getvalue()
    return "" if parsed.user_script == "script.py" else f"DeepSpeed's launcher takes {parsed.user_script} for the script"


def clear(module: str, rest: list[str]) -> None:
    """What an earlier page has made at the same place: a page begins with what it is given."""
    out = rest[rest.index("--out") + 1] if "--out" in rest and module == "data_tools.prepare" else None
    out = rest[1] if module in ("launch.export_hf", "launch.meta_to_hf") and len(rest) > 1 else out
    if out:
        shutil.rmtree(out, ignore_errors=True)


def end_of(module: str, words: list[str]) -> str:
    """Give the command in this process; what it said stays in `end_of.said`."""
    main = importlib.import_module(module).main
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = [f"{module.split('.')[-1]}.py", *words], io.StringIO("")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.argv, sys.stdin = before
    end_of.said = out.getvalue() + err.getvalue()
    return "" if code == 0 else f"exit code {code}: {end_of.said[-600:]}"


@functools.cache
def help_of(*command: str) -> str:
    """The help of a command: ours in this process, others' as they give it."""
    if command[0] == "hf":
        return processes.run([Path(sys.executable).with_name("hf"), *command[1:], "--help"], check=True).stdout
    assert not end_of(command[0], [*command[1:], "--help"])
    return end_of.said


def flags_fault(command: str) -> str:
    """Whether it names a command that is not there, or flags that it has not."""
    words = [word.removesuffix(";") for word in shlex.split(re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command)) if word != "…"]
    if words[0] == "make":
        done = processes.run(["make", "-n", *words[1:]], env=os.environ | {"PYTHON": sys.executable})
        return "" if done.returncode == 0 else done.stderr
    if words[0] == "pip":
        wanted = re.findall(r"\[(\w+)\]", command)
        return "" if all(f'"{extra}": [' in (ROOT / "setup.py").read_text() for extra in wanted) else f"no such extra: {wanted}"
    if words[:2] == ["python", "-c"]:
        compile(words[2], "page", "exec")
        return ""
    if words[0] in ("bash", "sbatch", "kubectl", "."):
        return "" if any((ROOT / word).is_file() for word in words[1:]) else "there is no such script"
    if words[0] == "hf":
        told = help_of("hf", *words[1:2] if words[1] == "download" else words[1:3])
        return "".join(f"no {w} in its help; " for w in words if w.startswith("--") and w not in told)
    if "--" in words:  # supervise: what stands behind is another command, and told of elsewhere
        words = words[: words.index("--")]
    if words[0] == "torchrun" and not any(word.startswith("launch/") for word in words):  # its own options, before any command
        return ""
    if words[0] == "astrollama" and (len(words) == 1 or words[1].startswith("--") or words[1] == "launch"):
        return ""
    _, module, rest = door_of([PLACEHOLDERS.get(word, word) for word in words])
    parts = (
        rest[:1]
        if module in ("launch.benchmark", "launch.evaluate", "data_tools.prepare") and rest[:1] not in (["--help"], ["PART"])
        else []
    )
    parts = parts or (["packing"] if module == "launch.benchmark" else [])
    told = help_of(module, *parts)
    return "".join(f"no {w} in its help; " for w in rest if w.startswith("--") and w.split("=")[0] not in told)
