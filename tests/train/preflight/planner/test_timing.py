"""A step's time against numbers worked out by hand, and what must hold whatever the constants are."""

import dataclasses
import itertools

import pytest

from train.preflight.planner.calibrated import constants
from train.preflight.planner.clusters import GBIT, Cluster, ClusterError, cluster, gpu_named
from train.preflight.planner.job import AGAIN, Job
from train.preflight.planner.models import sizes_of
from train.preflight.planner.timing import Constants, predict

# everything reaches its peak, nothing but products, attention and the wire costs anything, nothing hides
PLAIN = Constants(
    sustained_ampere=1, sustained_hopper=1, traffic=0, capped=1, attention_ampere=1, attention_hopper=1, alibi=1, copies_eager=0, copies_fused=0,
    overlap=1, network=1, taken=0, hop=0, waiting=0, host=40, fp8=1, part=0, early=1,
)  # fmt: skip
SEVEN, SEVENTY = sizes_of("llama2-7b")[0], sizes_of("llama2-70b")[0]


def job(sizes=SEVENTY, **changes) -> Job:
    return Job(**{"sizes": sizes, "seq_len": 4096, "micro_batch": 2, "micro_steps": 4, "again": AGAIN["full"], **changes})


def on(gpus: int, name: str = "H100", gigabits: float = 400) -> Cluster:
    return Cluster(gpu_named(name), gpus, min(8, gpus), gigabits * GBIT)


def rate(j: Job, c: Cluster, made: Constants | None = None) -> float:
    return predict(j, c, made or constants()).tokens_per_second


def test_products_are_six_flops_an_element_and_token_and_eight_where_the_forward_is_computed_again():
    gpu = on(1).gpu
    head, layers = 32000 * 4096, 6_738_415_616 - 2 * 32000 * 4096
    reached = gpu.peak * gpu.reached
    none = predict(job(SEVEN, again=AGAIN["none"]), on(1), PLAIN)
    full = predict(job(SEVEN), on(1), PLAIN)
    assert none.products == pytest.approx(6 * (layers + head) * 8192 / reached, rel=1e-9)
    assert full.products == pytest.approx((8 * layers + 6 * head) * 8192 / reached, rel=1e-9)


def test_attention_is_the_causal_half_with_flash_attentions_second_scores():
    found = predict(job(SEVEN, again=AGAIN["none"]), on(1), PLAIN)
    assert found.attention == pytest.approx(6 * 32 * 4096 * 4096 * 8192 * 7 / 6 / on(1).gpu.peak)


@pytest.mark.parametrize(
    ("sharding", "gradients", "volumes"),
    [("zero3", 4, 16), ("zero3", 2, 12), ("hpz", 4, 9), ("hpz", 2, 5)],
)
def test_the_wire_of_a_70b_takes_the_volumes_that_zero3_and_hpz_send(sharding, gradients, volumes):
    """Per step of 4 micro-steps, in units of the bf16 weights: 4 x (2 + 2) in fp32, 4 x 3 in bf16; with hpZ weights once, 1 + 4 x 2, 1 + 4."""
    found = predict(job(sharding=sharding, gradient_bytes=gradients), on(64), PLAIN)
    seconds = volumes * 2 * 68_976_648_192 * 63 / 64 / (400e9 / 8)
    assert 4 * found.wire == pytest.approx(seconds, rel=1e-6)


def test_an_optimizer_in_host_memory_takes_its_bytes_at_the_hosts_rate():
    """6.7e9 parameters of a node, 40 bytes each, at 40 GB/s; 6 bytes each of an eighth over 20 GB/s of PCIe."""
    found = predict(job(SEVEN, offload="optimizer", micro_steps=1), on(8), PLAIN)
    assert found.optimizer == pytest.approx(6_738_415_616 * (40 / 40e9 + 6 / 8 / 20e9))


CASES = [
    (job(sizes_of(name)[0], sharding=sharding, micro_batch=micro, again=AGAIN[again], kernels=kernels), on(gpus, gpu))
    for name, sharding, micro, again, kernels, gpus, gpu in itertools.product(
        ("llama3-1b", "llama3-70b"), ("zero3", "in node", "hpz", "gradients", "optimizer"), (1, 8),
        ("none", "full"), ("eager", "fused"), (1, 8, 1024), ("A100", "H100", "L40S"),
    )
]  # fmt: skip


def test_more_of_anything_a_machine_gives_is_never_slower():
    assert len(CASES) > 500
    for j, c in CASES:
        here = rate(j, c)
        assert 0 < here < float("inf")
        assert rate(j, dataclasses.replace(c, network=2 * c.network)) >= here
        for field in ("hbm", "links", "tflops"):
            if field == "tflops":  # reads and writes of products are counted against the peak they come with
                continue
            assert rate(j, dataclasses.replace(c, gpu=dataclasses.replace(c.gpu, **{field: 2 * getattr(c.gpu, field)}))) >= here, field


def test_computing_more_again_is_never_faster_nor_are_larger_gradients_or_fewer_rows_at_once():
    for j, c in CASES:
        order = [rate(dataclasses.replace(j, again=AGAIN[name]), c) for name in ("none", "selective", "full")]
        assert order == sorted(order, reverse=True)
        assert rate(dataclasses.replace(j, gradient_bytes=2), c) >= rate(dataclasses.replace(j, gradient_bytes=4), c)
        assert rate(dataclasses.replace(j, micro_batch=2 * j.micro_batch), c) >= rate(j, c) * (1 - 1e-9)
        assert rate(dataclasses.replace(j, offload="optimizer"), c) <= rate(j, c)


def test_mfu_never_exceeds_what_the_best_product_reaches():
    for j, c in CASES:
        # the causal half of attention is all that is computed
        assert rate(j, c) * j.flops_per_token(j.seq_len / 2) <= c.gpu.peak * c.gpu.reached


def test_parts_are_the_whole_and_the_bottleneck_is_the_largest():
    slow = predict(job(micro_batch=1), on(64, gigabits=25), constants())
    assert sum(slow.parts.values()) == pytest.approx(1) and slow.bottleneck == "network"
    assert predict(job(), on(64, gigabits=3200), constants()).bottleneck == "products"
    assert predict(job(SEVEN, offload="optimizer", micro_steps=1, micro_batch=1), on(8), constants()).bottleneck == "optimizer"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A100-40GB", "A100-40"), ("NVIDIA A100-SXM4-40GB", "A100-40"), ("a100_80gb", "A100"), ("8x A100 80GB", "A100"), ("A100 PCIe 80GB", "A100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("H100-96GB(500W)", "H100 (500 W)"), ("h100 pcie", "H100 PCIe"), ("H200", "H200"), ("GH200", "GH200"),
        ("NVIDIA L40S", "L40S"), ("L4", "L4"), ("RTX A6000", "A6000"), ("MI250", "MI250X"), ("AMD Instinct MI300X", "MI300X"), ("Tesla V100-SXM2-32GB", "V100"),
        ("RTX 4090", "RTX 4090"), ("cpu", "CPU"), ("NVIDIA A100 80GB PCIe", "A100 PCIe"), ("NVIDIA A100-PCIE-40GB", "A100-40 PCIe"), ("H100 80GB PCIe", "H100 PCIe"),
        ("H100-94GB NVL", "H100 NVL"), ("GB300", "GB300"), ("RTX PRO 6000 Blackwell", "RTX PRO 6000"), ("GeForce RTX 5090", "RTX 5090"), ("MI355X", "MI355X"),
        ("T4", "T4"), ("H1000", None), ("A1000", None), ("TPU v5p", None), ("RTX 3080", None), ("Gaudi2", None), ("", None), ("CPU cluster", None),
    ],
)  # fmt: skip
def test_gpus_go_by_the_names_that_drivers_tables_and_people_give_them(text, name):
    if name is None:
        with pytest.raises(ClusterError, match="not known; one of"):
            gpu_named(text)
    else:
        assert gpu_named(text).name == name


def test_a_gpu_has_the_memory_that_its_name_says():
    said = {
        "V100-SXM2-16GB": 16,
        "A100-64GB": 64,
        "H20-141GB": 141,
        "B200-192GB": 180,
        "MI250X 128GB": 64,
        "a100 400 Gb/s": 80,
        "H100 80GB HBM3": 80,
    }
    assert {text: gpu_named(text).gib for text in said} == said


def test_sums_that_nothing_hides_and_parts_sent_by_themselves_take_what_they_take():
    """One step of one micro-step between 16 nodes: 2 x 15/16 of a node's gradients in fp32; a broadcast of 2 ms a rank."""
    there, made = on(128), dataclasses.replace(PLAIN, overlap=50, part=2)
    within, last = (predict(job(SEVEN, micro_steps=1, sharding="in node", sums_last=x), there, made) for x in (False, True))
    assert last.network - within.network > 0.4 * 2 * 4 * 6_738_415_616 * 15 / 16 / 50e9
    at_once, one_by_one = (predict(job(SEVEN, micro_steps=1, sharding="optimizer", by_parts=x), there, made) for x in (False, True))
    assert one_by_one.network - at_once.network == pytest.approx(128 * 2e-3)


def test_early_libraries_are_slower_on_hopper_alone():
    made = dataclasses.replace(PLAIN, early=0.8)
    for name, times in (("H100", 1.25), ("A100", 1)):
        now, then = (predict(job(early=x), on(8, name), made).products for x in (False, True))
        assert then == pytest.approx(times * now)


def test_nodes_are_whole_and_get_the_network_that_is_said():
    assert cluster(gpu_named("A100"), 64, None, 400).network == 50e9
    assert cluster(gpu_named("H100"), 16, 4).a_node == 4
    with pytest.raises(ValueError, match="--nodes 5: does not divide --gpus 12"):
        cluster(gpu_named("H100"), 12, 5)
