"""Loading: each rank's bytes once, exactly, from any folder; what is wrong in memory is found."""

import json
import os
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.made import tiny
from tests.made.ranks import run_ranks
from train.engine import weights
from train.model_files.folder import INDEX
from train.model_files.header import SafetensorsError, read_header
from train.model_files.reader import Wanted, read_ahead
from train.world.ranks import World

ALONE = World(0, 1, 0, torch.device("cpu"))


def folder_of(path: Path, dtype: torch.dtype, files: int = 1) -> Path:
    """The tiny model's weights cast to a dtype, with values bf16 cannot hold, in some files."""
    model = tiny.tiny_model()
    tensors = {n: p.detach().to(dtype).contiguous() for n, p in model.state_dict().items()}
    path.mkdir()
    names = sorted(tensors)
    for k in range(files):
        save_file({n: tensors[n] for n in names[k::files]}, path / f"part-{k}.safetensors")
    model.config.save_pretrained(path)
    return path


def whole(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def fake_parameters(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> dict:
    """What the loader sees of a ZeRO-3 parameter on one rank."""
    return {
        n: SimpleNamespace(ds_tensor=torch.full((t.numel(),), 7, dtype=dtype), ds_shape=t.shape, ds_numel=t.numel())
        for n, t in tensors.items()
    }


# -- through the engine, at two ranks ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    ground = tiny.ground(tmp_path_factory.mktemp("weights"))
    folders = {
        str(d): folder_of(ground / f"model-{k}", d, files=2)
        for k, d in enumerate([torch.float16, torch.float32, torch.bfloat16, torch.float64])
    }
    return folders, run_ranks(start_each, 2, ground / "recipe.yaml", folders)


def start_each(world, recipe: Path, folders: dict[str, Path]) -> dict:
    """For each folder and compute dtype: this rank's masters and weights after the start; then the same with a bit changed before."""
    from train.engine import zero3 as engine
    from train.recipe.load import load

    torch.set_num_threads(1)
    found: dict = {}
    original = weights.load
    for files, folder in folders.items():
        for dtype in ("bf16", "fp32"):
            made, loaded, _ = engine.start(load(recipe, [f"model.dtype={dtype}"]), world, folder, 1)
            slices = {n: (made.get_master(p).clone(), p.ds_tensor.clone()) for n, p in made.parameters.items()}
            found[files, dtype] = slices, loaded.bytes_read, loaded.fingerprint

    def drifting(part):
        def load_and_drift(parameters, *args):
            loaded = original(parameters, *args)
            if world.rank == 1:
                one = loaded.low_bits["model.norm.weight"] if part == "low" else parameters["model.norm.weight"].ds_tensor.view(torch.int16)
                one[3] ^= 1
            return loaded

        return load_and_drift

    for files, part in (("torch.float16", "bits"), ("torch.float32", "low"), ("torch.bfloat16", "value")):
        weights.load = drifting(part)
        try:
            engine.start(load(recipe, ["model.dtype=bf16"]), world, folders[files], 1)
            found[part] = "went on"
        except weights.WeightsError as error:
            found[part] = str(error)
        finally:
            weights.load = original
    return found


@pytest.mark.slow
def test_masters_hold_what_the_files_hold_and_weights_are_it_rounded(started):
    folders, ranks = started
    for files, folder in folders.items():
        theirs = whole(folder)
        assert files == "torch.bfloat16" or any(not torch.equal(t, t.bfloat16().to(t.dtype)) for t in theirs.values())
        for dtype in ("bf16", "fp32"):
            for name, tensor in theirs.items():
                flat = tensor.reshape(-1).float()
                each = -(-len(flat) // 2)
                for rank, found in enumerate(ranks):
                    master, weight = found[files, dtype][0][name]
                    wanted = flat[rank * each : (rank + 1) * each]
                    assert torch.equal(master[: len(wanted)], wanted), (files, dtype, name)
                    assert torch.equal(weight[: len(wanted)], wanted.to(weight.dtype)), (files, dtype, name)
                    assert weight.dtype == (torch.bfloat16 if dtype == "bf16" else torch.float32)


@pytest.mark.slow
def test_the_ranks_read_the_files_once_whatever_their_precision(started):
    folders, ranks = started
    for files, folder in folders.items():
        sizes = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
        headers = sizes - sum(t.nbytes for t in whole(folder).values())
        for dtype in ("bf16", "fp32"):
            assert sum(found[files, dtype][1] for found in ranks) == sizes + headers  # every rank reads the headers


@pytest.mark.slow
def test_a_bit_that_changes_after_the_load_is_found_in_waiting_slices_too(started):
    for part in ("bits", "low", "value"):
        for found in started[1]:
            assert "are not what their files hold" in found[part] and "model.norm.weight on rank 1" in found[part], part


@pytest.mark.slow
def test_the_fingerprint_is_the_same_at_any_rank_count_and_compute_dtype(started):
    folders, ranks = started
    for files, folder in folders.items():
        alone = weights.load(fake_parameters(whole(folder), torch.float32), {}, folder, ALONE).fingerprint
        assert {found[files, d][2] for found in ranks for d in ("bf16", "fp32")} == {alone}


# -- reading ----------------------------------------------------------------------------------------------------------


class Remote:
    """A path that only looks like pathlib's, as those of object stores do; it counts what is read through it."""

    read: dict[str, int] = {}

    def __init__(self, path):
        self._path = Path(path)

    name = property(lambda self: self._path.name)

    def __truediv__(self, other: str) -> "Remote":
        return Remote(self._path / PurePosixPath(other))

    def open(self, mode: str = "r"):
        assert mode == "rb"
        return Counted(self._path)

    def is_file(self) -> bool:
        return self._path.is_file()

    def stat(self):
        return SimpleNamespace(st_size=self._path.stat().st_size)

    def glob(self, pattern: str):
        return (Remote(p) for p in self._path.glob(pattern))

    def read_text(self) -> str:
        return self._path.read_text()

    def __str__(self) -> str:
        return f"store://{self._path}"

    def __hash__(self) -> int:
        return hash(self._path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._path == other._path


class Counted:
    """A file of a store: short reads, no file descriptor."""

    def __init__(self, path: Path):
        self._path, self._file = path, path.open("rb")

    def readinto(self, view) -> int:
        data = self._file.read(min(len(view), 1000))
        view[: len(data)] = data
        Remote.read[self._path.name] = Remote.read.get(self._path.name, 0) + len(data)
        return len(data)

    def read(self, n: int) -> bytes:
        return self._file.read(n)

    def seek(self, at: int) -> None:
        self._file.seek(at)

    def close(self) -> None:
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.mark.slow
def test_a_folder_on_a_store_loads_as_one_on_the_disk_and_is_read_once(tmp_path):
    folder = folder_of(tmp_path / "m", torch.float16, files=2)
    tensors = whole(folder)
    here, there = fake_parameters(tensors, torch.float32), fake_parameters(tensors, torch.float32)
    Remote.read.clear()
    far = weights.load(there, {}, Remote(folder), ALONE)
    assert far.fingerprint == weights.load(here, {}, folder, ALONE).fingerprint
    assert all(torch.equal(there[n].ds_tensor, t.reshape(-1).float()) for n, t in tensors.items())
    assert sum(Remote.read.values()) == sum(t.nbytes for t in tensors.values()) and len(Remote.read) == 2
    with pytest.raises(weights.WeightsError, match=f"store://{folder}.*1 tensors do not fit"):
        weights.load({n: p for n, p in there.items() if n != "lm_head.weight"}, {}, Remote(folder), ALONE)


def test_what_is_read_ahead_is_what_was_asked_for_in_order(tmp_path):
    tensors = {
        "a": torch.randn(1001),
        "b": torch.randn(77, 13).bfloat16(),
        "c": torch.arange(50, dtype=torch.float64),
        "empty": torch.zeros(0),
    }
    save_file(tensors, tmp_path / "f.safetensors")
    entries = read_header(tmp_path / "f.safetensors")
    own = torch.zeros(500)
    wanted = [
        Wanted("b", entries["b"], 5, 990),
        Wanted("a", entries["a"], 300, 800, own),
        Wanted("empty", entries["empty"], 0, 0),
        Wanted("c", entries["c"], 0, 50),
    ]
    got = [(what.name, at, piece.clone()) for what, at, piece in read_ahead(wanted, piece_bytes=256)]
    assert [n for n, _, _ in got] == ["b"] * 8 + ["a"] * 8 + ["c"] * 2
    for name, at, piece in got:
        assert torch.equal(piece, tensors[name].reshape(-1)[at : at + len(piece)])
    assert torch.equal(own, tensors["a"][300:800])


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    save_file({"a": torch.randn(4000)}, tmp_path / "f.safetensors")
    entry = read_header(tmp_path / "f.safetensors")["a"]
    os.truncate(tmp_path / "f.safetensors", 9000)
    with pytest.raises(SafetensorsError, match="ended inside tensor a; the file changed while it was read"):
        list(read_ahead([Wanted("a", entry, 0, 4000)], piece_bytes=1024))


def test_padding_is_zero_and_not_left_over_memory(tmp_path):
    save_file({"a": torch.randn(10)}, tmp_path / "f.safetensors")
    parameters = {"a": SimpleNamespace(ds_tensor=torch.full((12,), 7.0), ds_shape=torch.Size([10]), ds_numel=10)}
    weights.load(parameters, {}, tmp_path, ALONE)
    assert parameters["a"].ds_tensor[10:].tolist() == [0, 0]


def test_a_tied_name_may_stand_in_the_files_but_only_with_the_same_values(tmp_path):
    table = torch.randn(6, 4)
    for name, head in (("same", table), ("other", table + 1)):
        (tmp_path / name).mkdir()
        save_file({"emb": table, "head": head.clone()}, tmp_path / name / "f.safetensors")
    parameters = fake_parameters({"emb": table}, torch.float32)
    weights.load(parameters, {"head": "emb"}, tmp_path / "same", ALONE)
    assert torch.equal(parameters["emb"].ds_tensor, table.reshape(-1))
    with pytest.raises(weights.WeightsError, match="ties head to emb, but the files hold two different tensors"):
        weights.load(parameters, {"head": "emb"}, tmp_path / "other", ALONE)


def test_pickled_weights_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(
        weights.WeightsError, match="only pytorch_model.bin, which can run foreign code when read; make a safetensors folder of it once"
    ):
        weights.read_folder(tmp_path)


def test_an_index_that_names_a_missing_file_is_refused_on_a_store_too(tmp_path):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(weights.WeightsError, match="gone.safetensors: missing, the index names it"):
        weights.read_folder(Remote(tmp_path))
