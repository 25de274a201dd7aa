"""train/foreign/torch_save/file.py: what torch.save wrote comes out as byte ranges; what would run code runs none and is refused in one line."""

import collections
import doctest
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.made import processes
from tests.made.tiny import joined
from train.foreign.deepspeed import folder as ds_folder
from train.foreign.torch_save import file
from train.foreign.torch_save.file import Foreign, StoredTensor, TorchFileError, read_torch_file
from train.foreign.torch_save.members import MAX_DIRECTORY_BYTES
from train.foreign.torch_save.pickled import MAX_OPCODES, MAX_PICKLE_BYTES
from train.model_files import stream
from train.model_files.dtypes import BF16, FP32, in_torch
from train.model_files.header import SafetensorsError, read_header
from train.model_files.stream import CHUNK_BYTES, RangeReader


def content(tensor: StoredTensor) -> torch.Tensor:
    return joined(RangeReader().parts([tensor.extent(0, tensor.numel)]), tensor.dtype).view(tensor.shape)


def refused(path: Path, **more) -> str:
    with pytest.raises(TorchFileError) as caught:
        read_torch_file(path, **more)
    said = str(caught.value)
    assert str(path) in said and len(said.splitlines()) == 1 and len(said) < len(str(path)) + 400, said
    return said


# -- honest files ---------------------------------------------------------------------------------------------------

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_dtype_come_out_bit_equal(tmp_path, protocol):
    g = torch.Generator().manual_seed(0)
    saved = {str(d): (torch.randn(7, 5, generator=g) * 3).to(d) for d in DTYPES} | {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4)}
    torch.save(saved, tmp_path / "x.pt", pickle_protocol=protocol)
    got = read_torch_file(tmp_path / "x.pt")
    assert list(got) == list(saved)
    for name, tensor in saved.items():
        assert in_torch(got[name].dtype) == tensor.dtype and torch.equal(content(got[name]), tensor), name


def test_the_opening_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.arange(10.0)}, "weights.pt")
    assert doctest.testmod(file) == (0, 3)


def test_a_byte_range_is_read_without_the_rest(tmp_path, monkeypatch):
    torch.save({"a": torch.arange(100.0), "b": torch.arange(100, 5100.0)}, tmp_path / "x.pt")
    extent = read_torch_file(tmp_path / "x.pt")["b"].extent(1000, 1004)
    assert (tmp_path / "x.pt").read_bytes()[extent.start : extent.start + 16] == struct.pack("<4f", 1100, 1101, 1102, 1103)
    # ranges of several tensors are joined into parts, and cut where a part is full
    monkeypatch.setattr(stream, "CHUNK_BYTES", 28)
    whole = read_torch_file(tmp_path / "x.pt")
    parts = [p.tolist() for p in RangeReader().parts([whole["a"].extent(0, 3), whole["b"].extent(0, 10), whole["a"].extent(99, 100)])]
    assert parts == [[0, 1, 2, 100, 101, 102, 103], [104, 105, 106, 107, 108, 109, 99]]


def test_a_part_that_is_held_keeps_its_bytes_whatever_the_interpreter_says_of_references(tmp_path, monkeypatch):
    """CPython 3.14 borrows what it loads: a count of references tells one less than there are."""
    torch.save({"a": torch.arange(float(CHUNK_BYTES))}, tmp_path / "x.pt")
    counted = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda thing: counted(thing) - 2)  # one for this function's own name
    held = list(RangeReader().parts([read_torch_file(tmp_path / "x.pt")["a"].extent(0, CHUNK_BYTES)]))
    assert len(held) == 4 and [part[0] for part in held] == [i * CHUNK_BYTES // 4 for i in range(4)]


def test_views_and_shared_storages_are_seen(tmp_path):
    base = torch.arange(24.0)
    torch.save({"all": base, "view": base[6:18].view(3, 4), "turned": base.view(4, 6).T, "alone": base.clone()}, tmp_path / "x.pt")
    got = read_torch_file(tmp_path / "x.pt")
    assert got["all"].storage == got["view"].storage == got["turned"].storage != got["alone"].storage
    assert torch.equal(content(got["view"]), base[6:18].view(3, 4)) and got["view"].offset == 6
    assert got["all"].is_contiguous and not got["turned"].is_contiguous
    with pytest.raises(TorchFileError, match="lies scattered"):
        got["turned"].extent(0, 1)


def test_a_model_as_people_save_it_is_read(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    tagged = torch.ones(3)
    tagged.note = "an attribute"
    saved = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "parameter": model[0].weight, "tagged": tagged,
        "args": Namespace(lr=0.1), "size": torch.Size([2, 3]), "dtype": torch.bfloat16, "device": torch.device("cpu"),
        "plain": [1, -5, 2**70, 1.5, "text", b"bytes", None, True, (1, 2), {3: "three"}, {"a", "b"}],
        "ordered": collections.OrderedDict(a=1), "many": collections.defaultdict(list, x=[1]), "where": Path("/tmp/x"),
        "rng": torch.random.get_rng_state(),
    }  # fmt: skip
    torch.save(saved, tmp_path / "x.pt")
    got = read_torch_file(tmp_path / "x.pt")
    assert {n: content(t).tolist() for n, t in got["model"].items()} == {n: t.tolist() for n, t in saved["model"].items()}
    assert content(got["parameter"]).tolist() == model[0].weight.tolist() and content(got["tagged"]).tolist() == [1, 1, 1]
    assert torch.equal(content(got["optimizer"]["state"][0]["exp_avg"]), optimizer.state_dict()["state"][0]["exp_avg"])
    assert isinstance(got["args"], Foreign) and got["args"].name == "argparse.Namespace" and got["args"].state == {"lr": 0.1}
    assert got["size"] == (2, 3) and got["dtype"] is BF16 and got["ordered"] == {"a": 1} and torch.equal(content(got["rng"]), saved["rng"])
    assert got["plain"][:10] == saved["plain"][:10] and sorted(got["plain"][10]) == ["a", "b"]


@pytest.mark.slow
def test_a_class_of_someone_elses_is_a_name_and_is_never_imported(tmp_path):
    (tmp_path / "someones_config.py").write_text("import os\nclass Config:\n    def __setstate__(self, state):\n        os._exit(7)\n")
    made = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import torch, someones_config
c = someones_config.Config(); c.lr = 1
torch.save({{"config": c, "w": torch.ones(2)}}, {str(tmp_path / "x.pt")!r})
"""
    processes.run([sys.executable, "-c", made], check=True)
    got = read_torch_file(tmp_path / "x.pt")
    assert repr(got["config"]) == "Foreign(someones_config.Config)" and got["config"].state == {"lr": 1}
    assert "someones_config" not in sys.modules and got["w"].shape == (2,)


def test_large_files_with_wide_zip_fields_are_read(tmp_path):
    """Beyond 4 GiB sizes and places stand in zip64 fields; the file is mostly a hole."""
    path, numel = tmp_path / "x.pt", (5 << 30) // 4
    pickled = rebuilt(key="big", numel=numel, shape=(4,), stride=(1,), offset=numel - 4)
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("x/data.pkl", pickled)
    start = path.stat().st_size  # the directory goes: members follow, written by hand
    with path.open("r+b") as f:
        directory_at = zip_parts(path)[0]
        f.truncate(directory_at)
        f.seek(directory_at)
        name = b"x/data/big"
        f.write(b"PK\x03\x04" + struct.pack("<5H3I2H", 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 20) + name)
        f.write(struct.pack("<2H2Q", 1, 16, numel * 4, numel * 4))
        data = f.tell()
        f.seek(data + numel * 4 - 16)
        f.write(struct.pack("<4f", 1, 2, 3, 4))
        at = f.tell()
        f.write(central(b"x/data.pkl", zlib.crc32(pickled), len(pickled), 0))
        f.write(
            b"PK\x01\x02" + struct.pack("<6H3I5H2I", 45, 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 20, 0, 0, 0, 0, directory_at)
            + name + struct.pack("<2H2Q", 1, 16, numel * 4, numel * 4)
        )  # fmt: skip
        end = f.tell()
        f.write(b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2, 2, end - at, at))
        f.write(b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1))
        f.write(b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    assert start < 1000 and path.stat().st_size > 5 << 30
    assert content(read_torch_file(path)).tolist() == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_file_saved_without_checksums_is_read(tmp_path):
    code = f"import torch; torch.serialization.set_crc32_options(False); torch.save(torch.ones(3), {str(tmp_path / 'x.pt')!r})"
    processes.run([sys.executable, "-c", code], check=True)
    assert content(read_torch_file(tmp_path / "x.pt")).tolist() == [1, 1, 1]


# -- damaged and odd files ------------------------------------------------------------------------------------------


def zip_parts(path: Path) -> tuple[int, int]:
    """(offset of the central directory, of the end record)."""
    data = path.read_bytes()
    end = data.rfind(b"PK\x05\x06")
    return struct.unpack_from("<I", data, end + 16)[0], end


def central(name: bytes, crc: int, size: int, at: int) -> bytes:
    return b"PK\x01\x02" + struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 0, crc, size, size, len(name), 0, 0, 0, 0, 0, at) + name


def write_zip(path: Path, pickled: bytes, members: dict[str, bytes] | None = None, **more) -> Path:
    with zipfile.ZipFile(path, "w", **more) as z:
        for name, data in {"x/data.pkl": pickled, "x/byteorder": b"little", **(members or {})}.items():
            z.writestr(name, data)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def rebuilt(key="0", numel=4, shape=(4,), stride=(1,), offset=0, kind=b"ctorch\nFloatStorage\n") -> bytes:
    """The pickle of one tensor, whatever is said about it."""

    def numbers(values) -> bytes:
        return b"(" + b"".join(b"\x8a\x09" + n.to_bytes(9, "little", signed=True) for n in values) + b"t"

    identity = b"(" + text("storage") + kind + text(key) + text("cpu") + b"\x8a\x09" + numel.to_bytes(9, "little", signed=True) + b"tQ"
    place = b"\x8a\x09" + offset.to_bytes(9, "little", signed=True)
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + identity + place + numbers(shape) + numbers(stride) + b"\x89}tR."


def test_a_handmade_tensor_is_read(tmp_path):
    path = write_zip(tmp_path / "x.pt", rebuilt(), {"x/data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert content(read_torch_file(path)).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"key": "7"}, "the storage '7' it names is missing"),
        ({"key": "../byteorder"}, "is missing"),
        ({"numel": 5}, "storage 0 should have 5 x 4 bytes, 16 are there"),
        ({"numel": 1 << 62}, "should have"),
        ({"shape": (5,)}, "reaches beyond storage 0 of 4"),
        ({"shape": (2, 2), "stride": (1 << 60, 1)}, "reaches beyond"),
        ({"offset": 1}, "reaches beyond"),
        ({"offset": -1}, "no possible shape"),
        ({"shape": (-4,)}, "no possible shape"),
        ({"shape": (4, 1)}, "no possible shape"),
        ({"stride": (-1,)}, "no possible shape"),
        ({"kind": b"ctorch\nDoubleStorage\n"}, "should have 4 x 8 bytes"),
        ({"kind": text("FloatStorage")}, "a storage of no known type"),
        ({"kind": b"cmine\nStorage\n"}, "a storage of no known type"),
    ],
    ids=str,
)
def test_tensors_that_lie_about_their_place_are_refused(tmp_path, changes, said):
    path = write_zip(tmp_path / "x.pt", rebuilt(**changes), {"x/data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert said in refused(path)


@pytest.mark.slow
def test_every_truncation_and_every_flipped_byte_of_the_frame_is_refused_or_harmless(tmp_path):
    """Cut anywhere: refused. A byte changed anywhere but in a tensor's data: refused, or nothing read from it changes."""
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(8.0)}, path)
    whole = path.read_bytes()
    tensor = read_torch_file(path)["w"]
    data = range(tensor.storage_start, tensor.storage_start + 32)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path)
    caught = 0
    for at in range(0, len(whole)):
        if at in data:
            continue
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            got = read_torch_file(path)
            assert list(got) == ["w"] and content(got["w"]).tolist() == list(range(8)), at
        except TorchFileError:
            caught += 1
    assert caught > 300


def test_other_formats_are_refused_with_the_remedy(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert "old format" in (said := refused(path)) and "torch.save it again" in said
    for data in (b"", b"hello", b"PK", b"\x80\x02}q\x00."):
        path.write_bytes(data)
        assert "not a torch.save file" in refused(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "TorchScript program" in refused(path)
    write_zip(path, pickle.dumps(1), {"x/byteorder": b"big"})
    assert "big-endian" in refused(path)
    assert "missing" in refused(tmp_path / "none.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "not a regular file" in refused(tmp_path / "pipe.pt")


# -- hostile files: what each would do is leave a file behind ---------------------------------------------------------


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def handmade(tail: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + tail + b"."


def bombs(ran: Path) -> dict[str, bytes]:
    """Pickles that create `ran` when unpickled by Python, or ask for what only an attack asks for."""
    command = f"touch {ran}"
    code = f"open({str(ran)!r}, 'w')"
    system = b"cposix\nsystem\n"
    named = {
        "os.system": handmade(b"cos\nsystem\n" + text(command) + b"\x85R"),
        "posix.system": handmade(system + text(command) + b"\x85R"),
        "builtins.eval": pickle.dumps(Calls(eval, code)),
        "builtins.exec": pickle.dumps(Calls(exec, code)),
        "python 2's eval": handmade(b"c__builtin__\neval\n" + text(code) + b"\x85R", 2),
        "subprocess": pickle.dumps(Calls(subprocess.Popen, ["touch", str(ran)])),
        "getattr chain": handmade(
            b"cbuiltins\ngetattr\n"
            + b"cbuiltins\n__import__\n"
            + text("os")
            + b"\x85R"
            + text("system")
            + b"\x86R"
            + text(command)
            + b"\x85R"
        ),
        "getattr of a class, called": handmade(
            b"cbuiltins\ngetattr\n" + b"cmine\nThing\n" + text("system") + b"\x86R" + text(command) + b"\x85R"
        ),
        "getattr of a private name": handmade(b"cbuiltins\ngetattr\n" + b"cmine\nThing\n" + text("__init__") + b"\x86R"),
        "nested pickle": pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.system, command)))),
        "import": handmade(b"cimportlib\nimport_module\n" + text("os") + b"\x85R"),
        "BUILD __setstate__": handmade(b"cmine\nThing\n}" + text("__setstate__") + system + b"sb" + text(command) + b"b"),
        "BUILD on a class": handmade(b"cmine\nThing\n}" + text("x") + text("y") + b"sb"),
        "INST": b"(" + text(command) + b"iposix\nsystem\n.",
        "INST of anything": b"(" + text(command) + b"imine\nThing\n.",
        "OBJ": b"(" + system + text(command) + b"o.",
        "NEWOBJ": handmade(b"csubprocess\nPopen\n" + text(command) + b"\x85\x81"),
        "NEWOBJ_EX": handmade(b"csubprocess\nPopen\n" + text(command) + b"\x85}" + text("shell") + b"\x88s\x92"),
        "persistent id with code": handmade(b"(" + text("storage") + system + text("0") + text("cpu") + b"K\x04tQ"),
        "persistent id that is a call": handmade(b"(" + text("run") + text(command) + b"tQ"),
        "persistent id as text": b"Pposix.system\n.",
        "extension registry": handmade(b"\x82\x01"),
        "extension registry, wide": handmade(b"\x84\x01\x00\x00\x00"),
        "STACK_GLOBAL, dotted": handmade(text("torch") + text("os.system") + b"\x93" + text(command) + b"\x85R"),
        "STACK_GLOBAL, dotted, of anything": handmade(text("mine") + text("os.system") + b"\x93" + text(command) + b"\x85R"),
        "STACK_GLOBAL of no text": handmade(b"K\x01K\x02\x93"),
        "a function of torch": handmade(b"ctorch.hub\nload\n" + text("mine/repo") + text("model") + b"\x86R"),
        "torch.load again": handmade(b"ctorch.serialization\nload\n" + text("other.pt") + b"\x85R"),
        "a gadget of numpy": handmade(b"cnumpy.testing._private.utils\nrunstring\n" + text(code) + b"}\x86R"),
        "functools.partial": handmade(b"cfunctools\npartial\n" + system + text(command) + b"\x86R"),
        "apply": handmade(b"c__builtin__\napply\n" + system + b"(" + text(command) + b"tt\x86R", 2),
        "tensor with a rule of its own": handmade(
            b"ctorch._tensor\n_rebuild_from_type_v2\n(" + system + b"ctorch\nTensor\n" + text(command) + b"\x85}tR"
        ),
        "calls a made object": handmade(b"cmine\nThing\n)R" + text(command) + b"\x85R"),
        "calls a text": handmade(text("os.system") + text(command) + b"\x85R"),
        "codecs": handmade(b"c_codecs\ndecode\n" + text("x") + text("zlib") + b"\x86R"),
        "out-of-band buffer": handmade(b"\x97", 5),
    }
    return named


HARMFUL = ("os.system", "posix.system", "builtins.eval", "builtins.exec", "python 2's eval", "subprocess", "getattr chain", "nested pickle")


@pytest.mark.parametrize("name", sorted(bombs(Path("x"))))
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, name):
    ran = tmp_path / "ran"
    path = write_zip(tmp_path / "x.bin", bombs(ran)[name])
    said = refused(path)
    assert not ran.exists() and "nothing was run" in said and "source you trust" in said


@pytest.mark.slow
def test_the_bombs_are_live(tmp_path):
    """Python's own pickle, in a process of its own, does what they ask."""
    for i, name in enumerate(HARMFUL):
        ran = tmp_path / f"ran{i}"
        data = bombs(ran)[name]
        (tmp_path / "harmful").write_bytes(data)
        processes.run([sys.executable, "-c", "import sys, pickle; pickle.load(open(sys.argv[1], 'rb'))", tmp_path / "harmful"])
        assert ran.exists(), name


@pytest.mark.parametrize(
    "name",
    ["zero_pp_rank_0_mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "rng_state_0.pth", "pytorch_model.bin"],
)
def test_a_bomb_among_a_checkpoints_files_runs_nothing(tmp_path, name):
    folder, ran = tmp_path / "checkpoint-5" / "global_step5", tmp_path / "ran"
    folder.mkdir(parents=True)
    tensor = torch.ones(4)
    torch.save(
        {
            "module": {"w": torch.empty(0)},
            "buffer_names": [],
            "param_shapes": [{"w": torch.Size([4])}],
            "shared_params": {},
            "dp_world_size": 1,
        },
        folder / "zero_pp_rank_0_mp_rank_00_model_states.pt",
    )
    state = {"zero_stage": 3, "partition_count": 1, "fp32_flat_groups": [tensor]}
    torch.save({"optimizer_state_dict": state}, folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert torch.equal(joined(ds_folder.tensors_of(folder.parent, None, FP32)["w"].parts(), FP32), tensor)
    write_zip((folder if "states" in name else folder.parent) / name, pickle.dumps(Calls(os.system, f"touch {ran}")))
    if "states" in name:
        with pytest.raises(TorchFileError, match=r"names posix\.system, which could run code"):
            ds_folder.tensors_of(folder.parent, None, FP32)
    else:  # no input of the conversion: not opened
        assert list(ds_folder.tensors_of(folder.parent, None, FP32)) == ["w"]
        assert "posix.system" in refused(folder.parent / name)
    assert not ran.exists()


def test_a_shard_that_is_a_link_out_of_its_folder_is_refused(tmp_path):
    torch.save(torch.ones(2), tmp_path / "secret.pt")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x.pt").symlink_to(tmp_path / "secret.pt")
    assert "is a link out of its folder" in refused(tmp_path / "model" / "x.pt")
    (tmp_path / "model" / "zero").symlink_to("/dev/zero")
    assert "is a link out of its folder" in refused(tmp_path / "model" / "zero")
    (tmp_path / "model" / "gone").symlink_to("nowhere")
    assert "leads nowhere" in refused(tmp_path / "model" / "gone")
    # a Hugging Face cache is made of links within one repository: those are read
    blob = tmp_path / "models--a--b" / "blobs" / "123"
    blob.parent.mkdir(parents=True)
    torch.save(torch.ones(2), blob)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "x.pth").symlink_to("../../blobs/123")
    assert content(read_torch_file(snapshot / "x.pth")).tolist() == [1, 1]


def test_an_oversized_safetensors_header_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for length in (1 << 63, 101_000_000):
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        with path.open("r+b") as f:
            f.truncate(200_000_000)
        with pytest.raises(SafetensorsError, match="header says"):
            read_header(path)


def test_code_named_by_a_tokenizer_or_config_is_not_run(tmp_path):
    """auto_map in a model's folder names Python files; loading here never looks at them."""
    import json

    from tests.made import tiny
    from train.model.causal_lm import config_of

    folder, ran = tiny.save_tiny(tmp_path / "model"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    for name, key in (("tokenizer_config.json", "AutoTokenizer"), ("config.json", "AutoConfig")):
        values = json.loads((folder / name).read_text())
        values["auto_map"] = {key: ["evil.Evil", "evil.Evil"] if key == "AutoTokenizer" else "evil.Evil"}
        (folder / name).write_text(json.dumps(values))
    config_of(folder)
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder)
    assert not ran.exists()


# -- bombs of size: bounded memory and time -------------------------------------------------------------------------


def limited(paths: list[Path]) -> list[str]:
    """The messages, from one process that may take 300 MB more than importing took."""
    code = """
import resource, sys
from pathlib import Path
from train.foreign.torch_save.file import TorchFileError, read_torch_file
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, used + 400_000_000))
begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_torch_file(Path(path))
        print("was read")
    except TorchFileError as error:
        print(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun
assert grown < 300_000, grown
"""
    done = processes.run([sys.executable, "-c", code, *map(str, paths)], seconds=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_bombs_of_size_are_refused_within_bounded_memory(tmp_path):
    many = {
        "deflated": (lambda p: write_zip(p, b"\x80\x02" + b"N" * (300 << 20) + b".", compression=zipfile.ZIP_DEFLATED), "is compressed"),
        "opcodes": (lambda p: write_zip(p, b"\x80\x02" + b"}" * (MAX_OPCODES + 5) + b"."), "more than 1,000,000 opcodes"),
        "memo": (lambda p: write_zip(p, b"\x80\x02}" + b"r\xff\xff\xff\x7f" + b"".join(b"r" + struct.pack("<I", i) for i in range(MAX_OPCODES)) + b"."), "opcodes"),
        "depth": (lambda p: write_zip(p, b"\x80\x02" + b"(" * 5000 + b"."), "nests deeper"),
        "pickle": (lambda p: write_zip(p, b"\x80\x02" + text("a" * MAX_PICKLE_BYTES) + b"."), "are an attack or rubbish"),
        "lying length": (lambda p: write_zip(p, b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x."), "damaged"),
        "hash of nested tuples": (lambda p: write_zip(p, b"\x80\x02}(" + b")" + b"2\x86" * 60 + b"Nu."), "was read"),
        "lists within lists": (lambda p: write_zip(p, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), "was read"),
    }  # fmt: skip
    paths = [write(tmp_path / f"{i}.pt") for i, (write, _) in enumerate(many.values())]
    for (name, (_, said)), line in zip(many.items(), limited(paths), strict=True):
        assert said in line, name


def test_zips_that_lie_are_refused(tmp_path):
    path, honest = tmp_path / "x.pt", {"x/data/0": struct.pack("<4f", 1, 2, 3, 4)}

    def with_bytes(find: bytes, put: bytes, nth: int = 0) -> str:
        data = write_zip(path, rebuilt(), honest).read_bytes()
        at = -1
        for _ in range(nth + 1):
            at = data.index(find, at + 1)
        path.write_bytes(data[:at] + put + data[at + len(find) :])
        return refused(path)

    # sizes: in the directory, in the local header, in the end record
    write_zip(path, rebuilt(), honest)
    entry = central(b"x/data/0", zlib.crc32(honest["x/data/0"]), 16, 0)[16:28]
    assert entry in path.read_bytes()
    assert "says" in with_bytes(entry, entry[:4] + struct.pack("<2I", 12, 12), 1)
    assert "says" in with_bytes(entry, entry[:4] + struct.pack("<2I", 99, 99), 0)
    assert "and" in with_bytes(entry, entry[:4] + struct.pack("<2I", 1 << 31, 1 << 31), 1)
    data = write_zip(path, rebuilt(), honest).read_bytes()
    at, end = zip_parts(path)
    for patch, said in (
        (struct.pack("<4H2IH", 0, 0, 3, 3, 1 << 31, at, 0), "its zip directory claims"),
        (struct.pack("<4H2IH", 0, 0, 3, 3, end - at, 0xFFFFFFF0, 0), "its zip directory claims"),
        (struct.pack("<4H2IH", 0, 0, 60000, 60000, end - at, at, 0), "damaged"),
        (struct.pack("<4H2IH", 0, 0, 2, 2, end - at, at, 0), "more than its 2 entries"),
        (struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0), "zip64 end is missing"),
        (struct.pack("<4H2IH", 0, 0, 3, 3, end - at, at, 7), "bytes follow its end"),
    ):
        path.write_bytes(data[: end + 4] + patch)
        assert said in refused(path), said
    # members: twice, overlapping, outside, elsewhere
    crc = zlib.crc32(rebuilt())
    body = data[:at]
    for entries, said in (
        ([(b"x/data.pkl", 0)] * 2, "is there twice"),
        ([(b"x/data.pkl", 0), (b"y/data.pkl", 0)], "not where the directory says"),
        ([(b"x/../../etc", 0)], "is unsafe"),
        ([(b"/etc/passwd", 0)], "is unsafe"),
        ([(b"x/a\nb", 0)], "is unsafe"),
        ([(b"x" * 600 + b"/d", 0)], "name has 602 bytes"),
    ):
        directory = b"".join(central(name, crc, len(rebuilt()), offset) for name, offset in entries)
        path.write_bytes(body + directory + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, len(entries), len(entries), len(directory), at, 0))
        assert said in refused(path), said
    # a directory larger than any real one, without its bytes being there to read
    with path.open("wb") as f:
        f.write(body)
        f.truncate(MAX_DIRECTORY_BYTES * 3)
        f.seek(0, 2)
        f.write(b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 9, 9, MAX_DIRECTORY_BYTES * 2, at, 0))
    assert "its zip directory claims" in refused(path)


def test_two_members_in_the_same_bytes_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.pt", rebuilt(), {"x/data/0": b"\0" * 16, "x/data/1": b"\0" * 16})
    data = path.read_bytes()
    at, end = zip_parts(path)
    first = data.index(b"x/data/0") - 30
    # the second member's bytes reach back into the first: give both headers' places the first one's size
    second = data.index(b"x/data/1") - 30
    longer = struct.pack("<2I", 16 + second - first, 16 + second - first)
    changed = bytearray(data)
    for where in (first + 18, data.index(b"x/data/0", at) - 46 + 20):
        changed[where : where + 8] = longer
    path.write_bytes(bytes(changed))
    assert "members overlap" in refused(path)
