"""The floors of the house: who may import whom, and what importing costs."""

import ast
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.made import processes

pytestmark = pytest.mark.slow  # it starts commands; `make check` runs it by name
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("train", "data_tools", "launch", "ds_configs")
TOP_LEVEL = {
    "train", "data_tools", "launch", "ds_configs", "tests", "README.md", "setup.py", "pyproject.toml", "constraints.txt", "Makefile", ".ci",
    ".gitignore", "LICENSE", "CHANGELOG.md",
}  # fmt: skip
# what each floor may import of ours
ALLOWED = {
    "data_tools": {"data_tools"},
    "train": {"train", "data_tools.shards"},
    "launch": {"launch", "train", "data_tools"},
    "ds_configs": set(),
}


def tracked() -> list[str]:
    return processes.run(["git", "ls-files"], check=True).stdout.split()


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{a.name}" for a in node.names} | {node.module}
    return {name for name in found if name.split(".")[0] in (*PACKAGES, "tests")}


def modules(package: str) -> list[Path]:
    return sorted(p for p in (ROOT / package).rglob("*.py"))


def names_in(folder: str) -> list[str]:
    """Dotted names of the modules below a folder, doors left out."""
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in modules(folder) if not p.stem.startswith("__")]
    assert len(names) > 3, folder
    return names


def test_imports_follow_the_floors():
    looked = 0
    for package, allowed in ALLOWED.items():
        for path in modules(package):
            for name in imports_of(path):
                looked += 1
                # `from data_tools import shards` shows up as data_tools and data_tools.shards
                permitted = any(name == a or name.startswith(a + ".") or a.startswith(name + ".") for a in allowed)
                assert permitted, f"{path.relative_to(ROOT)} imports {name}"
    assert looked > 100


def test_train_takes_nothing_of_data_tools_but_the_shards():
    for path in modules("train"):
        ours = {n for n in imports_of(path) if n.startswith("data_tools")}
        assert all(n == "data_tools.shards" or n.startswith("data_tools.shards.") for n in ours), path


def test_the_top_level_is_fixed():
    assert {f.split("/")[0] for f in tracked()} <= TOP_LEVEL


def test_a_wheel_holds_every_module_recipe_and_engine_json_and_nothing_else(tmp_path):
    for name in tracked():
        if name.split("/")[0] in (*PACKAGES, "tests", "setup.py", "pyproject.toml", "README.md") and (ROOT / name).is_file():
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "tree" / name)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path)]
    processes.run(command, cwd=tmp_path / "tree", check=True)
    [wheel] = tmp_path.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {f for f in tracked() if f.split("/")[0] in PACKAGES and (ROOT / f).is_file() and not f.startswith("launch/results/")}
    beside = {f"launch/{name}" for name in ("multinode.sh", "slurm.sbatch", "kubernetes.yaml", "hostfile.example")}
    wanted = beside | {
        f for f in ours if f.endswith((".py", ".json")) or f.startswith(("launch/recipes/", "launch/examples/", "launch/talk/vendor/"))
    }
    # all in one folder, since others have a `train` and a `launch`, too; the room of the `astrollama` command is that folder's own
    there = {f"astrollama_trainer/{f.removeprefix('launch/command/')}" for f in wanted} | {"astrollama_trainer.pth"}
    assert shipped == there and len(wanted) > 150


def test_no_module_is_named_like_one_of_the_standard_library():
    names = {p.stem for package in PACKAGES for p in modules(package)}
    assert len(names) > 40 and not names & sys.stdlib_module_names
    assert not names & {"utils", "common", "base", "datasets", "wandb"}


def test_data_tools_never_load_torch():
    code = f"import importlib, sys\nfor n in {names_in('data_tools')}: importlib.import_module(n)\nassert not {{'torch', 'deepspeed'}} & set(sys.modules)"
    processes.run([sys.executable, "-c", code], check=True)


def test_a_recipe_is_checked_without_torch():
    code = f"import importlib, sys\nfor n in {names_in('train/recipe')}: importlib.import_module(n)\n"
    code += "assert not {'torch', 'deepspeed', 'transformers', 'numpy'} & set(sys.modules)"
    processes.run([sys.executable, "-c", code], check=True)


def test_model_folders_are_read_and_written_without_torch():
    names = [n for n in names_in("train/export") + names_in("train/foreign") if n != "train.export.logit_check"]
    assert len(names) > 15
    code = f"import importlib, sys\nsys.modules['torch'] = None\nfor n in {names}: importlib.import_module(n)"
    processes.run([sys.executable, "-c", code], check=True)


def test_optional_packages_are_imported_nowhere_at_module_level():
    optional = {"flash_attn", "liger_kernel", "triton", "gigatoken"}
    for package in PACKAGES:
        for path in modules(package):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                names = (
                    [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
                assert not {n.split(".")[0] for n in names} & optional, path


# a signature that is not ours to choose: function -> whose it is
FOREIGN_SIGNATURES = {
    "layer_attention": "transformers' attention interface", "varlen_attention": "flash-attn's varlen function",
    "flash4_backward": "an operation of torch's library, which takes tensors one by one",
}  # fmt: skip


def test_files_and_functions_can_be_read_on_a_screen():
    looked = 0
    for path in [p for package in PACKAGES for p in modules(package)]:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name not in FOREIGN_SIGNATURES:
                looked += 1
                a = node.args
                taken = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls", "ctx")]
                assert node.end_lineno - node.lineno < 75 and len(taken) <= 7, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
    assert looked > 1000


def test_every_room_says_what_it_is_for_in_a_sentence_and_no_more():
    rooms = [p for package in ("train", "data_tools", "launch") for p in modules(package) if p.name == "__init__.py"]
    assert len(rooms) > 30
    for path in rooms:
        [sentence] = ast.parse(path.read_text(encoding="utf-8")).body
        assert 20 < len(sentence.value.value) < 160 and sentence.value.value.endswith("."), path


def test_tests_lie_as_the_code_lies():
    looked = 0
    for folder in [p for p in (ROOT / "tests").rglob("*") if p.is_dir() and any(p.glob("test_*.py"))]:
        looked += 1
        assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), f"{folder.relative_to(ROOT)} guards no room"
    assert looked > 20
    for package in ("train", "data_tools"):  # and every room is guarded
        for room in {p.parent for p in modules(package) if p.name not in ("__init__.py", "__main__.py")} - {ROOT / package}:
            around = [r for r in (room, room.parent) if r != ROOT / package]  # a room within a room may be guarded by its tests
            assert any(any((ROOT / "tests" / r.relative_to(ROOT)).glob("test_*.py")) for r in around), f"no tests guard {room}"
    assert {p.name for p in (ROOT / "tests").glob("*.py")} == {"__init__.py", "conftest.py", "test_harness.py", "test_layout.py"}


def test_files_import_each_other_in_no_circle():
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for package in PACKAGES for p in modules(package)}
    left = {name: (imports_of(path) & files.keys()) - {name} for name, path in files.items()}
    assert sum(map(len, left.values())) > 400
    while free := [name for name, used in left.items() if not used & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"a circle among {sorted(left)}"


def test_every_door_puts_the_checkout_on_the_path_and_answers_help_with_an_example():
    doors = [p for p in modules("launch") if "__main__" in p.read_text() and "sys.path[0]" in p.read_text()]
    assert len(doors) >= 5
    for door in doors:
        done = processes.run([sys.executable, str(door), "--help"], cwd="/")
        assert done.returncode == 0 and "example" in done.stdout.lower(), (door, done.stderr)


def rooms_and_arrows(package: str) -> dict[str, set[str]]:
    """room -> the rooms it imports from, lazily or not; a room is a folder of `package`, foreign/ with all that is in it."""

    def room_of(name: str) -> str:
        parts = name.split(".")
        return parts[1] if len(parts) > 1 and (ROOT / package / parts[1]).is_dir() else "doors"

    arrows: dict[str, set[str]] = {}
    for path in modules(package):
        here = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        used = {room_of(n) for n in imports_of(path) if n.startswith(package + ".")}
        arrows.setdefault(here, set()).update(used - {here})
    return arrows


def test_rooms_have_no_circles_and_can_be_seen_whole():
    for package, least in (("train", 12), ("data_tools", 10)):
        left = rooms_and_arrows(package)
        assert len(left) >= least, left
        while free := [room for room, used in left.items() if not used & left.keys()]:
            for room in free:
                del left[room]
        assert not left, f"{package}: a circle among {sorted(left)}"
        for folder in {p.parent for p in modules(package)}:
            assert len(list(folder.glob("*.py"))) <= 15, folder  # __init__ counted


def pages() -> dict[str, str]:
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in tracked() if name.endswith("README.md")}


def without_braces(word: str) -> list[str]:
    """`a/{b,c}.py` → `a/b.py`, `a/c.py`."""
    found = re.search(r"\{([^{}]*)\}", word)
    return [w for part in found[1].split(",") for w in without_braces(word.replace(found[0], part, 1))] if found else [word]


def test_the_front_page_is_short_and_no_page_is_wide():
    front = pages()["README.md"].splitlines()
    assert len(front) <= 150 and max(map(len, front)) <= 120, [line for line in front if len(line) > 120]
    for name, text in pages().items():
        wide = [line for line in text.splitlines() if len(line) > 140 and not line.startswith("|")]
        assert not wide, (name, wide)


def test_pages_name_only_what_exists():
    looked = 0
    for name, text in pages().items():
        prose = re.sub(r"\]\([^)]*\)", "]", text)  # links are relative to their page
        words = re.findall(r"(?<![\w./-])((?:train|data_tools|launch|tests|ds_configs)/[\w./*{},-]*)", prose)
        for word in {w for found in words for w in without_braces(found.rstrip("./,-"))}:
            looked += 1
            assert any(ROOT.glob(word)), f"{name}: there is no {word}"
        for module in re.findall(r"-m (data_tools[\w.]*)", text):
            path = ROOT / module.rstrip(".").replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{name}: there is no {module}"
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / name).parent / link).exists(), f"{name}: there is no {link}"
    assert looked > 100


def test_pages_and_picture_show_every_room_above_the_rooms_it_calls():
    drawn = {room: int(y) for y, room in re.findall(r'class="room" x="\d+" y="(\d+)">(\w+)/<', (ROOT / "launch" / "house.svg").read_text())}
    known = set()
    for package in ("train", "data_tools"):
        arrows = {room: used for room, used in rooms_and_arrows(package).items() if room != "doors"}
        listed = re.findall(rf"^\| `{package}/(\w+)/` \|", pages()[f"{package}/README.md"], re.MULTILINE)
        known |= set(arrows)
        assert sorted(listed) == sorted(arrows)
        for room, used in arrows.items():
            for other in used:
                assert listed.index(room) < listed.index(other), f"{package}/README.md: {room} calls {other}"
                # benchmark/ is drawn beside the rooms it measures
                assert room == "benchmark" or drawn[room] < drawn[other], f"launch/house.svg: {room} calls {other}"
    assert set(drawn) == known


def test_tests_start_commands_and_ranks_in_two_places_which_bound_and_end_them():
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name in ("processes.py", "ranks.py") and path.parent.name == "made":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert not re.match(r"(subprocess\.(run|call|check_|Popen)|os\.(system|popen|spawn|exec)|multiprocessing\.)", called), (
                path,
                called,
            )
