"""train/foreign/deepspeed/folder.py on checkpoints DeepSpeed saved: bit-equal to DeepSpeed's own conversion, or one clear error."""

import contextlib
import doctest
import io
import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.made import processes
from tests.made.deepspeed_folders import TAG, Case, make
from tests.made.ranks import run_ranks
from tests.made.tiny import joined
from train.benchmark import made_models
from train.foreign.deepspeed import folder as ds_folder
from train.foreign.deepspeed.folder import DsFolderError
from train.foreign.torch_save.file import StoredTensor, TorchFileError, read_torch_file
from train.model_files.dtypes import BF16, FP32, DType
from train.model_files.stream import CHUNK_BYTES, RING, ReadError

pytestmark = pytest.mark.slow

EMBEDDING = "model.embed_tokens.weight"
CASES = {
    1: [Case("s1_fp32", 1), Case("s2_bf16", 2, "bf16"), Case("s3_bf16", 3, "bf16", groups=2)],
    2: [
        Case("s0_bf16", 0, "bf16"),
        Case("s1_frozen", 1, "bf16", frozen=True),
        Case("s1_bf16_optimizer", 1, "bf16", groups=2, fp32_gradients=True),
        Case("s2_later", 2, "bf16", later=True),
        Case("s2_fp16", 2, "fp16"),
        Case("s2_tied", 2, "bf16", tied=True, groups=2, wrapped=True),
        Case("s2_frozen", 2, "bf16", frozen=True),
        Case("s2_round_robin", 2, "bf16", groups=2, round_robin=True),
        Case("s3_fp32", 3),
        Case("s3_later", 3, "bf16", frozen=True, later=True),
        Case("s3_tied", 3, "fp16", tied=True, groups=2, sub_group=9000, wrapped=True),
        Case("s3_frozen_left_out", 3, "bf16", frozen=True, exclude_frozen=True),
    ],
    4: [Case("s1_groups", 1, groups=2), Case("s2_frozen", 2, "bf16", frozen=True), Case("s3_groups", 3, "bf16", groups=2, sub_group=9000, frozen=True)],
}  # fmt: skip
ALL = [(ranks, case) for ranks, cases in CASES.items() for case in cases]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict]:
    """root/RANKS/CASE as DeepSpeed saved it, and {RANKS: {CASE: the weights the engine held}}."""
    root = tmp_path_factory.mktemp("deepspeed")
    return root, {ranks: run_ranks(make, ranks, str(root / str(ranks)), cases)[0] for ranks, cases in CASES.items()}


def values(folder: Path, tag: str | None = None, wanted: DType = BF16) -> dict[str, torch.Tensor]:
    return {n: joined(t.parts(), t.dtype).view(t.shape) for n, t in ds_folder.tensors_of(folder, tag, wanted).items()}


def deepspeeds_own(folder: Path, tag: str | None = None) -> dict[str, torch.Tensor]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag)
    return {n.removeprefix("module."): t for n, t in state.items()}


def universal(folder: Path, out: Path) -> Path:
    from deepspeed.checkpoint.ds_to_universal import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(
            Namespace(
                input_folder=str(folder),
                output_folder=str(out),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )  # fmt: skip
        )
    return out


def refused(folder: Path, tag: str | None = None, wanted: DType = BF16) -> str:
    with pytest.raises((DsFolderError, TorchFileError)) as caught:
        ds_folder.tensors_of(folder, tag, wanted)
    said = str(caught.value)
    assert len(said.splitlines()) == 1 and len(said) < 700, said
    return said


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize(("ranks", "case"), ALL, ids=[f"{r}-{c.name}" for r, c in ALL])
def test_every_tensor_is_what_the_engine_held(made, ranks, case):
    root, held = made
    got = values(root / str(ranks) / case.name)
    live = {n.removeprefix("module."): t for n, t in held[ranks][case.name].items()}
    if case.exclude_frozen:
        del live[EMBEDDING]
    if case.tied:
        live["lm_head.weight"] = live[EMBEDDING]
    if case.round_robin:
        got = {n: t.to(live[n].dtype) for n, t in got.items()}
    assert len(got) == 20 + (not case.exclude_frozen) and same(got, live)
    if case.dtype != "fp32" and case.stage and not case.round_robin:
        assert any(not torch.equal(t, t.to(torch.bfloat16).to(t.dtype)) for t in got.values()), "masters hold more than 16 bits"


@pytest.mark.parametrize(
    ("ranks", "case"),
    # DeepSpeed's tool reads neither stage 0 nor its own bf16 optimizer, and loses what stage 1 froze
    [(r, c) for r, c in ALL if c.stage and c.name not in ("s1_bf16_optimizer", "s1_frozen")],
    ids=lambda v: getattr(v, "name", v),
)
def test_every_tensor_is_bit_equal_to_deepspeeds_own_conversion(made, ranks, case):
    folder = made[0] / str(ranks) / case.name
    assert same(values(folder), deepspeeds_own(folder))


def test_tensors_come_in_the_models_order_and_shared_ones_are_one_object(made):
    tensors = ds_folder.tensors_of(made[0] / "2" / "s2_tied", None, BF16)
    assert tensors["lm_head.weight"] is tensors[EMBEDDING]
    assert list(tensors)[:2] == [EMBEDDING, "model.layers.0.self_attn.q_proj.weight"] and list(tensors)[-1] == "lm_head.weight"


def test_a_tag_is_found_by_latest_by_name_and_as_the_folder_itself(made):
    folder = made[0] / "2" / "s3_later"
    newer, older = values(folder), values(folder, TAG)
    assert not same(newer, older) and same(newer, values(folder / "global_step3"))
    assert same(older, deepspeeds_own(folder, TAG)) and same(older, values(folder / TAG)) and same(older, values(folder / TAG, TAG))


def test_folders_are_recognised(made, tmp_path):
    folder = made[0] / "2" / "s3_later"
    assert ds_folder.looks_like(folder) and ds_folder.looks_like(folder / TAG)
    trainer = tmp_path / "checkpoint-500"  # as HF Trainer, LMFlow and axolotl leave it
    shutil.copytree(folder / TAG, trainer / "global_step500")
    (trainer / "latest").write_text("global_step500")
    (trainer / "config.json").write_text("{}")
    assert ds_folder.looks_like(trainer) and same(values(trainer), values(folder, TAG))
    (trainer / "latest").unlink()
    assert same(values(trainer), values(folder, TAG)), "the only tag needs no pointer"
    shutil.rmtree(trainer / "global_step500")
    assert not ds_folder.looks_like(trainer) and not ds_folder.looks_like(tmp_path / "none")
    (trainer / "latest").write_text("global_step500")
    assert ds_folder.looks_like(trainer) and "names 'global_step500', which is not a checkpoint here" in refused(trainer)


def test_a_tag_that_is_not_there_is_refused_with_those_that_are(made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / "s3_later", folder)
    assert "no tag 'global_step9'; tags here: global_step2, global_step3" in refused(folder, "global_step9")
    for said in ("global_step9", "..", "", "a/b", "\0", "x" * 400):
        (folder / "latest").write_text(said)
        assert "which is not a checkpoint here; tags here: global_step2, global_step3" in refused(folder)
    (folder / "latest").unlink()
    assert "has no `latest`; tags here" in refused(folder)
    assert "no such folder" in refused(tmp_path / "none")


@pytest.mark.parametrize("case", ["s1_frozen", "s2_tied", "s3_later", "s3_fp32"])
def test_each_file_missing_or_cut_short_is_refused_before_anything_is_read(made, tmp_path, case):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / case, folder)
    files = sorted((folder / TAG).glob("*.pt"))
    assert len(files) == (3 if case.startswith(("s1", "s2")) else 4)
    for path in files:
        whole = path.read_bytes()
        path.unlink()
        if "_rank_0_" in path.name:
            assert f"the {'model' if 'model' in path.name else 'optim'}_states file of rank 0 is missing" in refused(folder, TAG)
        assert "missing" in (said := refused(folder, TAG)) or "are here" in said or "has no *_" in said, path
        for length in (0, 1, 30, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            assert str(path) in refused(folder, TAG)
        path.write_bytes(whole)
    assert same(values(folder, TAG), values(made[0] / "2" / case, TAG))


@pytest.mark.parametrize("case", ["s2_later", "s3_later"])
def test_files_of_two_saves_are_told_apart(made, tmp_path, case):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / case, folder)
    for path in sorted((folder / TAG).glob("*.pt")):
        whole = path.read_bytes()
        path.write_bytes((folder / "global_step3" / path.name).read_bytes())
        said = refused(folder, TAG)
        assert "two saves are mixed" in said, (path, said)
        path.write_bytes(whole)


def test_files_of_other_world_sizes_are_told_apart(made, tmp_path):
    for case, ranks in (("s3_groups", "4"), ("s2_frozen", "4"), ("s1_groups", "4")):
        folder = tmp_path / case
        shutil.copytree(made[0] / ranks / case, folder)
        for path in (folder / TAG).glob("*zero_pp_rank_3_*"):
            path.unlink()
        assert "saved by 4 ranks" in refused(folder)
    folder = tmp_path / "two_in_four"
    shutil.copytree(made[0] / "4" / "s3_groups", folder)
    for path in (made[0] / "2" / "s3_later" / TAG).glob("*zero_pp_rank_1_*"):
        shutil.copy(path, folder / TAG)
    assert "mixed" in refused(folder) or "two saves" in refused(folder)
    shutil.copy(made[0] / "2" / "s2_frozen" / TAG / "mp_rank_00_model_states.pt", folder / TAG)
    assert "two runs saved under one tag" in refused(folder)


def test_frozen_values_of_another_rank_count_are_refused(made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / "s3_later", folder)
    for path in sorted((folder / TAG).glob("*rank_1*model_states.pt")):
        state = torch.load(path, weights_only=False)
        state["frozen_param_fragments"][EMBEDDING] = state["frozen_param_fragments"][EMBEDDING][:-1].clone()
        torch.save(state, path)
    assert f"the frozen {EMBEDDING}" in refused(folder, TAG)


def edit(path: Path, change) -> None:
    state = torch.load(path, weights_only=False)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("case", "file", "change", "said"),
    [
        ("s3_fp32", "optim", lambda s: s["optimizer_state_dict"].update(zero_stage=7), "stage 7"),
        ("s3_fp32", "optim", lambda s: s["optimizer_state_dict"].update(partition_count=3), "says stage 3 on 3 ranks, 2 ranks' files"),
        ("s3_fp32", "optim", lambda s: s["optimizer_state_dict"].pop("fp32_flat_groups"), "holds no fp32_flat_groups"),
        ("s3_fp32", "optim", lambda s: s["optimizer_state_dict"].update(fp32_flat_groups=[torch.ones(5)]), "holds 5 master values"),
        ("s2_tied", "optim", lambda s: s["optimizer_state_dict"]["single_partition_of_fp32_groups"].pop(), "other parameter groups"),
        (
            "s2_fp16",
            "optim",
            lambda s: s["optimizer_state_dict"].update(single_partition_of_fp32_groups=[torch.ones(9)]),
            "master values over",
        ),
        ("s2_fp16", "optim", lambda s: s["optimizer_state_dict"].update(partition_count=[2, 4]), "experts"),
        ("s3_fp32", "model", lambda s: s["param_shapes"][0].update({"model.norm.weight": torch.Size([49])}), "param_shapes differs"),
        ("s3_fp32", "model", lambda s: s.pop("module"), "not a model-states file"),
        ("s3_fp32", "model", lambda s: s.update(mp_world_size=2), "model-parallel"),
        ("s3_fp32", "model", lambda s: s.update(num_experts=[8]), "mixture of experts"),
        ("s3_fp32", "model", lambda s: s.update(dp_world_size=3), "dp_world_size differs"),
        ("s2_fp16", "model", lambda s: s["param_shapes"][0].update({"model.norm.weight": torch.Size([49])}), "its parameters want 72433"),
        ("s2_fp16", "model", lambda s: s["param_shapes"][0].pop("model.norm.weight"), "mixed"),
        ("s2_fp16", "model", lambda s: s["shared_params"].update(a="b"), "a shares b, which is nowhere"),
        ("s2_fp16", "model", lambda s: s["module"]["model.norm.weight"].mul_(2), "the fp32 master of model.norm.weight"),
        ("s2_fp16", "model", lambda s: s["module"].update(odd=torch.ones(2, dtype=torch.int32)), "odd is int32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "change",  # a function's own name would hold its address
)
def test_what_contradicts_is_refused(made, tmp_path, case, file, change, said):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / case, folder)
    edit(sorted((folder / TAG).glob(f"*{file}_states.pt"))[-1], change)
    assert said in refused(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mp_rank_01_model_states.pt", "tensor- and pipeline-parallel"),
        ("bf16_zero_pp_rank_0_mp_rank_01_optim_states.pt", "tensor- and pipeline-parallel"),
        ("layer_3_expert_2_mp_rank_00_model_states.pt", "of an expert kind"),
        ("expp_rank_0_mp_rank_00_optim_states.pt", "of an expert kind"),
        ("layer_00-model_00-model_states.pt", "of an pipeline kind"),
        ("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", "two runs saved under one tag"),
    ],
)
def test_kinds_of_parallelism_not_read_are_named(made, tmp_path, name, said):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / "s2_fp16", folder)
    (folder / TAG / name).write_bytes(b"")
    assert said in refused(folder)


def test_persistent_rotary_buffers_are_left_out_and_other_buffers_kept(made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / "s3_fp32", folder)

    def with_buffers(state):
        for name, value in (("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(6)), ("model.scale", torch.full((3,), 2.5))):
            state["buffer_names"].append(name)
            state["module"][name] = value

    for path in (folder / TAG).glob("*model_states.pt"):
        edit(path, with_buffers)
    got = values(folder)
    assert torch.equal(got.pop("model.scale"), torch.full((3,), 2.5)) and same(got, values(made[0] / "2" / "s3_fp32"))


def test_an_adapters_checkpoint_is_refused_with_the_remedy(made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / "s2_fp16", folder)
    adapter = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    edit(folder / TAG / "mp_rank_00_model_states.pt", lambda s: s["module"].update({adapter: torch.ones(2, 2)}))
    assert "merge it into its model with peft first" in refused(folder)


def test_weights_without_masters_are_taken_only_where_they_say_the_same(made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0] / "2" / "s2_frozen", folder)
    masters = values(folder)
    for path in (folder / TAG).glob("*optim_states.pt"):
        path.unlink()
    assert same(values(folder), {n: t.bfloat16() for n, t in masters.items()})
    assert "has no *_optim_states.pt, which hold the fp32 masters" in refused(folder, wanted=FP32)


# -- universal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "case"), [(2, "s1_frozen"), (2, "s2_tied"), (2, "s3_later"), (2, "s3_fp32"), (4, "s1_groups"), (4, "s3_groups")]
)
def test_a_universal_checkpoint_holds_the_same_as_the_folder_it_was_made_of(made, tmp_path, ranks, case):
    folder = made[0] / str(ranks) / case
    out = universal(folder / TAG, tmp_path / f"{TAG}_universal")
    wanted = values(folder, TAG)
    assert ds_folder.looks_like(out) and same(values(out), wanted)
    assert (tmp_path / "latest_universal").read_text() == out.name and same(values(tmp_path), wanted)


def test_a_universal_folder_that_lacks_a_parameter_or_holds_another_is_refused(made, tmp_path):
    out = universal(made[0] / "2" / "s3_fp32" / TAG, tmp_path / "step_universal")
    (out / "zero" / "model.norm.weight").rename(tmp_path / "aside")
    assert "model.norm.weight: missing, the model states name it" in refused(out)
    (tmp_path / "aside").rename(out / "zero" / "model.other.weight")
    shutil.copytree(out / "zero" / "model.other.weight", out / "zero" / "model.norm.weight")
    assert "the model states know no such parameter" in refused(out)
    shutil.rmtree(out / "zero" / "model.other.weight")
    path = out / "zero" / "model.norm.weight" / "fp32.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in refused(out)
    shutil.copy(out / "zero" / EMBEDDING / "fp32.pt", path)
    assert "the model states want [48]" in refused(out)
    path.unlink()
    assert str(path) in refused(out)


def test_a_universal_folder_scrambled_by_round_robin_is_refused(made, tmp_path):
    """ds_to_universal 0.19.8 takes other parameters' values there: silent in DeepSpeed, an error here."""
    folder = made[0] / "2" / "s2_round_robin" / TAG
    try:
        out = universal(folder, tmp_path / "u_universal")
    except RuntimeError:
        pytest.skip("this DeepSpeed refuses to make one")
    assert "round_robin_gradients: export the original folder" in refused(out)


# -- how it reads ---------------------------------------------------------------------------------------------------


def write_large(folder: Path, ranks: int, layers: int, rows: int = 1 << 10) -> int:
    """A stage-3 folder of the engine's form with 4 MB masters; returns its parameters."""
    shapes = {f"model.layers.{i}.w": torch.Size([rows, 1 << 10]) for i in range(layers)}
    each = sum(-(-s.numel() // ranks) for s in shapes.values())
    (folder / TAG).mkdir(parents=True)
    (folder / "latest").write_text(TAG)
    for r in range(ranks):
        model = {
            "module": {n: torch.empty(0) for n in shapes},
            "buffer_names": [],
            "param_shapes": [shapes],
            "shared_params": {},
            "dp_world_size": ranks,
        }
        torch.save(model, folder / TAG / f"zero_pp_rank_{r}_mp_rank_00_model_states.pt")
        moments = {0: {"step": torch.tensor(2.0), "exp_avg": torch.ones(each), "exp_avg_sq": torch.ones(each)}}
        state = {
            "zero_stage": 3,
            "partition_count": ranks,
            "optimizer_state_dict": {"state": moments},
            "fp32_flat_groups": [torch.arange(r * each, (r + 1) * each).float()],
        }
        torch.save({"optimizer_state_dict": state}, folder / TAG / f"bf16_zero_pp_rank_{r}_mp_rank_00_optim_states.pt")
    return sum(s.numel() for s in shapes.values())


def test_the_opening_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_models.deepspeed_checkpoint(Path("checkpoint-500"), made_models.shape_of(2e5, 512))
    assert doctest.testmod(ds_folder) == (0, 3)


def test_memory_is_a_few_pieces_and_only_masters_are_read(tmp_path):
    code = """
import json, resource, sys
from pathlib import Path
from train.model_files.dtypes import BF16
from train.foreign.deepspeed.folder import tensors_of
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
chars = lambda: int(Path("/proc/self/io").read_text().split()[1])
before, read = peak(), chars()
largest = count = 0
for tensor in tensors_of(Path(sys.argv[1]), None, BF16).values():
    for piece in tensor.parts():
        largest, count = max(largest, len(piece)), count + len(piece)
print(json.dumps([peak() - before, chars() - read, largest, count]))
"""
    parameters = write_large(tmp_path / "run", 3, 40)
    done = processes.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)
    grown, read, largest, count = json.loads(done.stdout.splitlines()[-1])
    assert count == parameters and largest * 4 <= CHUNK_BYTES
    assert grown < 40e6 < parameters * 4 / 4, "a quarter of the masters would show"
    assert read <= 4 * parameters * 1.01


def test_a_part_stays_while_the_next_ones_are_read_and_its_memory_is_used_again(tmp_path):
    write_large(tmp_path / "run", 2, 8)
    tensors = list(ds_folder.tensors_of(tmp_path / "run", None, BF16).values())
    each, half = 4 << 20, 1 << 19  # elements a rank; a tensor's elements on one rank
    for i, tensor in enumerate(tensors):
        parts = list(tensor.parts())
        assert 4 == len(parts) < RING
        wanted = [torch.arange(r * each + i * half, r * each + (i + 1) * half).float() for r in range(2)]
        assert torch.equal(joined(parts, FP32), torch.cat(wanted))
    places = {piece.__array_interface__["data"][0] for t in tensors for piece in t.parts()}
    assert len(places) <= RING < len(tensors)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    write_large(tmp_path / "run", 1, 3)
    tensors = ds_folder.tensors_of(tmp_path / "run", None, BF16)
    [path] = (tmp_path / "run" / TAG).glob("*optim_states.pt")
    stored = read_torch_file(path)["optimizer_state_dict"]["fp32_flat_groups"][0]
    assert isinstance(stored, StoredTensor)
    with path.open("r+b") as f:
        f.truncate(stored.storage_start + 100)
    with pytest.raises(ReadError, match=f"{path.name}: ends at byte {stored.storage_start + 100}; it was cut short while it was read"):
        [list(t.parts()) for t in tensors.values()]
