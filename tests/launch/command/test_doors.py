"""`astrollama`, as pip installs it: from a folder with a `train` of its own, in an environment with somebody else's."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from launch.command import doors
from tests.made import processes, tiny
from tests.made.where import ROOT
from train.recipe.load import load

PATIENCE = 300  # a launch on two ranks, on a busy machine
THEIRS = "raise SystemExit('somebody else')\n"


def test_every_door_is_a_word(capsys):
    assert doors.main(["--help"]) == 0
    listed = re.findall(r"^  ([\w-]+)  +\S", capsys.readouterr().out, re.MULTILINE)
    assert {*doors.DOORS, "launch"} <= set(listed)
    scripts = {f"launch.{p.stem}" for p in (ROOT / "launch").glob("*.py") if "sys.path[0]" in p.read_text()}
    assert len(scripts) > 6 and not (missing := scripts - {module for module, _ in doors.DOORS.values()}), (
        f"a line of DOORS each: {missing}"
    )
    assert all(len(f"  {name:<11}  {says}") <= 120 for name, (_, says) in doors.DOORS.items())


@pytest.mark.parametrize("name", doors.DOORS)
def test_help_speaks_of_this_command_and_not_of_a_checkout(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"astrollama {name}"])
    main = importlib.import_module(doors.DOORS[name][0]).main
    assert doors.help_of(main, ["--help"]) == 0
    said = capsys.readouterr().out
    assert f"astrollama {name}" in said
    assert not re.search(r"python (launch/|-m data_tools)|launch/recipes/\w+\.yaml|launch/\w+\.py|make quickstart", said), said


@pytest.mark.parametrize(
    "written, here",
    [
        (
            "deepspeed --num_gpus 8 launch/pretrain.py launch/recipes/cpt_7b.yaml tokens=2e9",
            "astrollama launch --num_gpus 8 pretrain cpt_7b tokens=2e9",
        ),
        (
            "deepspeed --hostfile hostfile --no_ssh --node_rank N launch/sft.py r.yaml",
            "astrollama launch --hostfile hostfile --no_ssh --node_rank N sft r.yaml",
        ),
        ("deepspeed launch/pretrain.py mine.yaml", "astrollama launch pretrain mine.yaml"),
        ("python launch/meta_to_hf.py a b; python -m data_tools.show x", "astrollama meta-to-hf a b; astrollama show x"),
        ("INPUT=x.jsonl make quickstart", "astrollama quickstart --input x.jsonl"),
        (
            "INPUT=x.jsonl make quickstart-chat; make quickstart-chat",
            "astrollama quickstart --chat --input x.jsonl; astrollama quickstart --chat",
        ),
        ("nothing of ours: python train.py, make test", "nothing of ours: python train.py, make test"),
    ],
)
def test_a_checkouts_commands_have_words_here(written, here):
    assert doors.as_commands(written) == here


def test_what_is_supervised_is_said_in_words_of_this_command():
    def made(*words: str) -> list[str]:
        return [word.replace(str(Path(sys.executable).parent), "BIN").replace(str(ROOT), "ROOT") for word in doors.as_a_checkouts([*words])]

    assert made("/v/bin/astrollama", "launch", "--num_gpus", "8", "pretrain", "cpt_7b", "a=1") == [
        "BIN/deepspeed", "--num_gpus", "8", "ROOT/launch/pretrain.py", "cpt_7b", "a=1",
    ]  # fmt: skip
    assert made("srun", "astrollama", "sft", "r.yaml") == [
        "srun",
        sys.executable.replace(str(Path(sys.executable).parent), "BIN"),
        "ROOT/launch/sft.py",
        "r.yaml",
    ]
    assert made("deepspeed", "launch/pretrain.py", "r") == ["deepspeed", "launch/pretrain.py", "r"] and made("astrollama") == ["astrollama"]


def test_words_that_are_none_are_refused_with_the_nearest(capsys):
    assert doors.main([]) == 2 and doors.main(["pretran"]) == 2 and "did you mean pretrain?" in capsys.readouterr().err
    assert doors.main(["xyzzy"]) == 2 and "--help lists them" in capsys.readouterr().err
    assert doors.launch(["--num_gpus", "2", "cpt_7b"]) == 2 and "which command?" in capsys.readouterr().err
    assert doors.launch([]) == 2 and doors.launch(["--help"]) == 0


def test_recipes_are_found_by_name_from_any_folder(tmp_path, monkeypatch, capsys):
    from launch.command import recipes
    from launch.pretrain import main as pretrain

    monkeypatch.chdir(tmp_path)
    assert recipes.main([]) == 0
    assert "sft_recommended_7b" in capsys.readouterr().out
    assert recipes.main(["cpt_7b"]) == 0
    printed = capsys.readouterr().out
    assert "astrollama launch --num_gpus 8 pretrain cpt_7b" in printed and "python -m" not in printed
    (tmp_path / "mine.yaml").write_text(printed)
    (tmp_path / "cpt_70b").mkdir()  # a folder of that name is no recipe
    for words in (
        ["cpt_7b"],
        ["cpt_7b.yaml"],
        ["mine"],
        ["mine.yaml"],
        ["cpt_70b", "deepspeed=zero3_hpz"],
        ["cpt_7b", "deepspeed=zero3_hpz.json"],
    ):
        code = pretrain([*words, "--dry-run", "--elsewhere", "--gpus", "8"])
        said = capsys.readouterr()
        assert code == (1 if words == ["mine"] else 0), (words, said)
        assert ("zero3_hpz" in said.out) == (len(words) > 1)
    assert "cpt_7b.yaml" in said.err or words != ["mine"]
    (tmp_path / "cpt_7b.yaml").write_text("name: mine\n")
    assert pretrain(["cpt_7b.yaml", "--dry-run"]) == 1 and "missing" in capsys.readouterr().err, "a file that lies here comes first"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A new environment with this program's wheel, the packages it needs by a path alone, and somebody else's `train` and `launch`."""
    base = tmp_path_factory.mktemp("installed")
    for name in processes.run(["git", "ls-files", "-co", "--exclude-standard"], check=True).stdout.split():
        if name.split("/")[0] in (*doors.OURS, "setup.py", "pyproject.toml", "README.md", "LICENSE") and (ROOT / name).is_file():
            (base / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, base / "tree" / name)
    processes.run([sys.executable, "setup.py", "-q", "bdist_wheel", "-d", base], cwd=base / "tree", check=True)
    shutil.rmtree(base / "tree")
    processes.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True)
    site = site_of(base)
    (site / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for name in ("train", "launch"):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(f"WHOSE = 'their {name}'\n")
    [wheel] = base.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        base / "venv" / "bin" / "python",
        "install",
        "-qI",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    processes.run(install, check=True)
    for name in doors.OURS:  # and where commands are given, too
        (base / "here" / name).mkdir(parents=True)
        (base / "here" / name / "__init__.py").write_text(THEIRS)
    return base


def site_of(base: Path) -> Path:
    [site] = (base / "venv" / "lib").glob("python3.*/site-packages")
    return site


def astrollama(base: Path, *words: object, script: str = "astrollama", **more: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return processes.run(
        [base / "venv" / "bin" / script, *words], cwd=base / "here", env=env | {"DS_ACCELERATOR": "cpu"} | more, seconds=PATIENCE
    )


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


@pytest.mark.slow
def test_somebody_elses_packages_stay_as_they_are(installed):
    def python(code: str, **more: str) -> str:
        done = astrollama(installed, "-P", "-c", code, script="python", **more)
        return done.stdout.strip() or done.stderr

    assert python("import train, launch; print(train.WHOSE, launch.WHOSE)") == "their train their launch"
    assert python("import data_tools.prepare as p; print(p.__file__)").startswith(str(site_of(installed) / "astrollama_trainer")), (
        "ours, where none is theirs"
    )
    [wheel] = installed.glob("*.whl")
    assert not {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()} & set(doors.OURS)


@pytest.mark.slow
def test_another_train_that_came_first_ends_in_one_message(installed):
    (hook := installed / "hook").mkdir()
    (hook / "sitecustomize.py").write_text("import train\n")
    done = astrollama(installed, "pretrain", "cpt_7b", "--dry-run", PYTHONPATH=str(hook))
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "`import train` finds" in done.stderr and "environment of its own" in done.stderr
    assert "astrollama-trainer" in astrollama(installed, "--version", PYTHONPATH=str(hook)).stdout


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_road_is_walked_in_any_folder_and_nothing_is_written_beside_the_package(installed):
    """quickstart on a tiny model, then prepare, a dry run, an export and an answer of what came out."""
    here, before = installed / "here", state(site_of(installed))
    tiny.save_tiny(here / "models" / "smollm2-135m", max_position_embeddings=512)

    def done(*words: object) -> str:
        made = astrollama(installed, *words)
        assert made.returncode == 0 and "Traceback" not in made.stderr, (words, made.stdout, made.stderr)
        return made.stdout

    assert "report: runs/quickstart/report.html" in done("quickstart")
    report = json.loads((here / "runs" / "quickstart" / "report.json").read_text())
    assert Path(report["hf_model"]).is_relative_to(here) and report["steps"] == load("quickstart").steps
    (here / "texts.jsonl").write_text("".join(json.dumps({"id": str(k), "text": f"Star number {k} is bright."}) + "\n" for k in range(50)))
    done("prepare", "corpus", "texts.jsonl", "--tokenizer", "models/smollm2-135m", "--out", "shards/stars")
    said = done("pretrain", "quickstart", "data.sources.abstracts.path=shards/stars", "steps=1", "schedule.warmup_steps=0", "--dry-run")
    assert "all inputs are here" in said
    done("export", report["hf_model"], "exported")
    done("chat", "exported", "--prompt", "A star", "--max-new-tokens", "3")
    refused = astrollama(installed, "launch", "--num_gpus", "1", "--master_port", processes.free_port(), "pretrain", "nowhere")
    assert refused.returncode == 1 and "the recipes here are" in refused.stderr
    assert state(site_of(installed)) == before
    assert sorted(p.name for p in here.iterdir()) == sorted([*doors.OURS, "models", "runs", "texts.jsonl", "shards", "exported"])
