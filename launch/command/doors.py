"""`astrollama WORD …`: the doors by name, for a program installed with pip, from any folder.

1. the program's own folder goes first on the import path, here and for whatever is started, and is found to be the one imported;
2. the word names a door, whose `main` does the rest: `astrollama pretrain cpt_7b --dry-run` is `python launch/pretrain.py cpt_7b --dry-run`;
3. `astrollama launch OPTIONS pretrain …` becomes DeepSpeed's launcher, which starts that door on every GPU.

In a wheel this room is the package `astrollama_trainer`, with the folders train, launch, data_tools and ds_configs in it (setup.py); in a
checkout it is launch/command. It imports nothing of ours before step 1.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import os
import re
import sys
from pathlib import Path

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "train" / "__init__.py").is_file())
OURS = ("train", "launch", "data_tools", "ds_configs")
DOORS = {  # word: (module with main(words) -> exit status, what it does)
    "prepare": ("data_tools.prepare", "papers, texts and conversations → token shards"),
    "show": ("data_tools.show", "what is in token shards; verify them"),
    "questions": ("data_tools.questions.make", "papers → question-and-answer conversations, by a model behind an endpoint"),
    "latex": ("data_tools.latex.paper", "one paper's LaTeX → clean text and sections"),
    "recipes": (f"{__package__}.recipes", "the recipes that come with the program; one of them to read or to copy"),
    "pretrain": ("launch.pretrain", "continual pre-training on token shards; on several GPUs by `astrollama launch`"),
    "sft": ("launch.sft", "chat fine-tuning; on several GPUs by `astrollama launch`"),
    "plan": ("launch.plan", "how fast a recipe will be on a cluster, whether it fits, what it costs"),
    "doctor": ("launch.doctor", "go or no-go before a run: this machine, the network, a recipe"),
    "supervise": ("launch.supervise", "restarts a run where it is worth it"),
    "documents": ("launch.doors.documents", "the documents behind any step of a run"),
    "outcome": ("launch.outcome", "how a run ended, whatever its launcher said"),
    "report": ("launch.report", "a run on one page, at any time: curves, perplexities, data, answers"),
    "export": ("launch.export_hf", "a checkpoint, or several → a Hugging Face folder to publish"),
    "publish": ("launch.publish", "a model → a release folder with card and licence, and the Hugging Face Hub"),
    "meta-to-hf": ("launch.meta_to_hf", "LLaMA-2 as Meta publishes it → a Hugging Face folder"),
    "chat": ("launch.chat", "talk to a model, in the terminal or on a page"),
    "evaluate": ("launch.evaluate", "what models can do on texts of yours, side by side, with intervals"),
    "benchmark": ("launch.benchmark", "how fast each part is on this machine"),
    "quickstart": ("launch.quickstart", "from nothing to a small trained model and its report, in this folder"),
}
ON_RANKS = ("pretrain", "sft", "doctor", "evaluate")  # what the launcher may start
HELP = """usage: astrollama COMMAND …          astrollama COMMAND --help tells the rest

{doors}

  launch       DeepSpeed's launcher: astrollama launch [its options] {on_ranks} …

Recipes and DeepSpeed settings are found by name from any folder; what is made lies in the folder the command is given in.

examples:
  astrollama quickstart
  astrollama pretrain cpt_7b --dry-run --gpus 8
  astrollama launch --num_gpus 8 pretrain cpt_7b tokens=2e9
"""


def main(words: list[str] | None = None) -> int:
    """Exit status: the door's own; 2 for a word that is none."""
    word, *rest = (sys.argv[1:] if words is None else words) or [""]
    if word in ("", "-h", "--help", "help"):
        doors = "\n".join(f"  {name:<11}  {says}" for name, (_, says) in DOORS.items())
        print(HELP.format(doors=doors, on_ranks="|".join(ON_RANKS)))
        return 0 if word else 2
    if word == "--version":
        from importlib.metadata import version

        print(f"astrollama-trainer {version('astrollama-trainer')}")
        return 0
    if word not in (*DOORS, "launch"):
        near = difflib.get_close_matches(word, (*DOORS, "launch"), n=1)
        print(f"astrollama: no command {word!r}; {f'did you mean {near[0]}?' if near else 'astrollama --help lists them'}", file=sys.stderr)
        return 2
    if fault := take_the_path():
        print(f"astrollama: {fault}", file=sys.stderr)
        return 1
    if word == "launch":
        return launch(rest)
    if word == "supervise" and "--" in rest:
        rest = [*rest[: rest.index("--") + 1], *as_a_checkouts(rest[rest.index("--") + 1 :])]
    sys.argv = [f"astrollama {word}", *rest]
    door = importlib.import_module(DOORS[word][0])
    return help_of(door.main, rest) if {"-h", "--help"} & set(rest) else door.main(rest)


def take_the_path() -> str:
    """Our packages first on the path; a fault when another `train`, say, was imported before and would be used instead.

    Processes that are started from here get the same path, and not the folder they stand in, where another `train` may lie.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    os.environ["PYTHONSAFEPATH"] = "1"
    sys.path.insert(0, str(ROOT))
    for name in OURS:
        found = importlib.util.find_spec(name)
        there = [Path(place).resolve() for place in found.submodule_search_locations or [found.origin or "unknown"]] if found else []
        if there[:1] != [ROOT / name]:
            where = ", ".join(map(str, there)) or "nowhere"
            return (
                f"`import {name}` finds {where}, not this program's {ROOT / name}: it was imported before the program started, by a .pth file, "
                "a sitecustomize or an import hook of this environment; take that out, or install into an environment of its own"
            )
    return ""


def launch(words: list[str]) -> int:
    """Become `deepspeed OPTIONS launch/DOOR.py …`: its signals, its exit status."""
    if {"-h", "--help"} & set(words[:1]) or not words:
        doors = "|".join(ON_RANKS)
        print(f"usage: astrollama launch [options of DeepSpeed's launcher] {doors} RECIPE [key=value …]\n\nexample:")
        print("  astrollama launch --num_gpus 8 pretrain cpt_7b\n\nDeepSpeed's options: deepspeed --help")
        return 0 if words else 2
    at = next((k for k, word in enumerate(words) if word in ON_RANKS), None)
    if at is None:
        print(f"astrollama launch {' '.join(words)}: which command? One of {', '.join(ON_RANKS)} comes after the options", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "deepspeed.launcher.runner", *words[:at], script_of(words[at]), *words[at + 1 :]]
    sys.stdout.flush()
    os.execve(command[0], command, os.environ)


def script_of(door: str) -> str:
    return str(ROOT / f"{DOORS[door][0].replace('.', os.sep)}.py")


def as_a_checkouts(command: list[str]) -> list[str]:
    """`… astrollama launch OPTIONS pretrain R` → `… deepspeed OPTIONS launch/pretrain.py R`, `astrollama pretrain R` → `python …`."""
    at = next((k for k, word in enumerate(command) if Path(word).name == "astrollama"), None)
    door = next((k for k, word in enumerate(command) if at is not None and k > at and word in ON_RANKS), None)
    if at is None or door is None:
        return command
    beside = Path(sys.executable).with_name("deepspeed")
    launcher = (
        [str(beside) if beside.exists() else "deepspeed", *command[at + 2 : door]] if command[at + 1] == "launch" else [sys.executable]
    )
    return [*command[:at], *launcher, script_of(command[door]), *command[door + 1 :]]


def help_of(door_main, words: list[str]) -> int:
    """A door's help in the words of this command."""
    told, code = io.StringIO(), 0
    with contextlib.redirect_stdout(told):
        try:
            code = door_main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    print(as_commands(told.getvalue()), end="")
    return code


def as_commands(text: str) -> str:
    """`python launch/export_hf.py …` → `astrollama export …`, and so on for all that a checkout's pages name."""
    name_of = {re.match(r"(?:launch\.doors|launch|data_tools)\.(\w+)", module)[1]: name for name, (module, _) in DOORS.items()}
    text = text.replace("launch/doors/", "launch/")

    def named(file: str, before: str = "") -> str:
        return f"astrollama {before}{name_of[file]}" if file in name_of else f"launch/{file}.py"

    text = re.sub(r"launch/recipes/(\w+)\.yaml", r"\1", text)
    text = text.replace("make quickstart-chat", "make quickstart --chat")
    text = re.sub(r"INPUT=(\S+) make quickstart( --chat)?", r"astrollama quickstart\2 --input \1", text)
    text = text.replace("make quickstart", "astrollama quickstart")
    text = re.sub(r"\bdeepspeed ((?:-\S+ (?:[^-\s]\S* )?)*)launch/(\w+)\.py", lambda m: named(m[2], f"launch {m[1]}"), text)
    text = re.sub(r"\bpython launch/(\w+)\.py", lambda m: named(m[1]), text)
    text = re.sub(r"\bpython -m data_tools\.(\w+)", lambda m: named(m[1]), text)
    text = re.sub(r"(?<![\w/])launch/(\w+)\.py", lambda m: name_of.get(m[1], m[0]), text)
    return re.sub(r"(?<![\w/])benchmark\.py", "astrollama benchmark", text)


if __name__ == "__main__":
    sys.exit(main())
