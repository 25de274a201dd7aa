"""What a DeepSpeed JSON may not say, and what the recipe puts into it."""

import json

import pytest

from train.engine.deepspeed_json import GONE, adam_kernel, merged_config
from train.engine.gathering import alone, in_place, sized
from train.recipe.vocabulary import Data, Model, Optim, Recipe, RecipeError, Source


def recipe_with(folder, zero: dict | None = None, reduce_dtype: str = "fp32", **top) -> Recipe:
    (folder / "own.json").write_text(json.dumps({"zero_optimization": {"stage": 3, **(zero or {})}, **top}))
    return Recipe(
        name="x", model=Model(path="x"), data=Data(sources={"a": Source(path=folder)}, seq_len=64), steps=1, tokens_per_step=1024,
        deepspeed=folder / "own.json", optim=Optim(reduce_dtype=reduce_dtype),
    )  # fmt: skip


def refusal(*args, **kwargs) -> str:
    with pytest.raises(RecipeError) as refused:
        merged_config(recipe_with(*args, **kwargs), 8, on_cuda=True)
    return str(refused.value)


@pytest.mark.parametrize("key", GONE)
def test_keys_that_deepspeed_has_no_more_are_named_with_what_serves_instead(key, tmp_path):
    section, _, inner = key.rpartition(".")
    said = refusal(tmp_path, {inner: 8} if section else None, **({} if section else {inner: {"enabled": True}}))
    assert f"{key}: DeepSpeed has it no more; take it out and {GONE[key]}" in said


def test_every_key_that_the_installed_deepspeed_calls_removed_is_among_them():
    from deepspeed.runtime import config

    zero = {f"zero_optimization.{key}" for key in config._REMOVED_ZERO_CONFIG_KEYS}
    assert set(config._REMOVED_TOP_LEVEL_CONFIG_KEYS) | zero <= set(GONE) and len(GONE) > len(zero) + 8


def test_a_second_copy_in_each_node_is_refused_where_weights_lie_in_main_memory(tmp_path):
    zero = {"zero_hpz_partition_size": 8, "offload_param": {"device": "cpu"}}
    assert "zero_hpz_partition_size=8 with offload_param" in refusal(tmp_path, zero)
    for part in zero:
        merged_config(recipe_with(tmp_path, {part: zero[part]}), 8, on_cuda=True)


def test_int8_slices_that_deepspeed_fills_by_a_cuda_kernel_are_refused_with_what_serves_instead(tmp_path):
    assert "set model.quantize=int8 in the recipe" in refusal(tmp_path, {"zero_quantized_nontrainable_weights": True})


def test_what_gradients_are_sent_in_is_the_recipes_and_they_are_summed_in_fp32(tmp_path):
    for dtype in ("fp32", "bf16"):
        config = merged_config(recipe_with(tmp_path, reduce_dtype=dtype), 8, on_cuda=True)
        assert config["communication_data_type"] == dtype and config["data_types"]["grad_accum_dtype"] == "fp32"
    assert "set optim.reduce_dtype there" in refusal(tmp_path, communication_data_type="fp16")
    assert "set model.compile there" in refusal(tmp_path, compile={"deepcompile": True})
    assert "managed_gradient_accumulation=false" in refusal(tmp_path, managed_gradient_accumulation=False)


def test_what_is_fetched_ahead_and_kept_follows_from_the_layer_unless_the_json_says_it():
    layer, parameters = 855_654_400, 68_976_648_192  # LLaMA-2-70B
    found = sized({"stage": 3}, layer, parameters)
    assert found["stage3_max_live_parameters"] == 4 * layer and found["stage3_max_reuse_distance"] == 2 * layer
    assert 0.98 * layer < found["stage3_prefetch_bucket_size"] < layer, "one layer, and none of the next"
    assert sized({"stage3_max_reuse_distance": 5}, layer, parameters)["stage3_max_reuse_distance"] == 5
    small = sized({"stage": 3}, 3_540_096, 134_515_008)
    assert small["stage3_max_reuse_distance"] >= 134_515_008, "a small model is gathered once a micro-batch"


def test_on_a_gpu_adam_is_torchs_in_one_kernel_and_nothing_is_built_first(tmp_path):
    recipe = recipe_with(tmp_path)
    params = merged_config(recipe, 8, on_cuda=True)["optimizer"]["params"]
    assert params["torch_adam"] and params["fused"] and adam_kernel(recipe, {}, on_cuda=True) == "torch"
    assert adam_kernel(recipe, {"offload_optimizer": {"device": "cpu"}}, on_cuda=True) == "cpu"


def test_one_rank_keeps_its_weights_in_place_unless_they_lie_elsewhere():
    assert alone({"stage3_param_persistence_threshold": 10}, 5000) == {"stage3_param_persistence_threshold": 5000}
    assert in_place({}, 1) and in_place({"offload_param": {"device": "none"}}, 1)
    assert (
        not in_place({}, 2) and not in_place({"offload_param": {"device": "cpu"}}, 1) and not in_place({"zero_quantized_weights": True}, 1)
    )


def test_one_rank_makes_no_fp32_of_gradients_that_go_nowhere(tmp_path):
    recipe = recipe_with(tmp_path)
    sent = [merged_config(recipe, ranks, on_cuda=True)["communication_data_type"] for ranks in (1, 2)]
    assert sent == [recipe.model.dtype, recipe.optim.reduce_dtype] and recipe.model.dtype != "fp32"
