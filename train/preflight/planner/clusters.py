"""What a run stands on: GPUs as their vendors describe them, how they are joined, what an hour costs and how often one fails.

Peaks are dense (data sheets print sparse ones: halved once). `reached` is the share of the peak that the best matrix product of any shape
reaches, measured by stas00/ml-engineering (A100 271 of 312, H100 794.5 of 989, B200 1,745 of 2,250, MI300X 668 of 1,300 TFLOP/s); for the
others it is that of the nearest relative, less where 300 W hold the clock down. `links` is what one GPU gets of an all-gather inside its node (NCCL's bus bandwidth, nccl-tests):
three quarters of NVLink's one-way rate, PCIe's where there is no NVLink.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

from train.world.machine import DEVICE_GIB, PEAK_TFLOPS

GBIT = 1e9 / 8  # bytes/s
GIB = 2**30
Family = Literal["ampere", "hopper"]  # whose fitted constants hold: what attention reaches and how long a clock is held


class ClusterError(ValueError):
    """A cluster that is not one: the word, its value, the remedy."""


@dataclass(frozen=True)
class Gpu:
    """tflops: dense bf16 (fp16 on V100); gib: memory; hbm, links, network: bytes/s, the network's as a node of eight has it where nobody
    says; dollars: an hour of one."""

    name: str
    tflops: float
    gib: float
    hbm: float
    links: float
    reached: float
    family: Family
    network: float
    dollars: float
    capped: bool = False  # below its usual power

    @property
    def peak(self) -> float:
        """FLOP/s."""
        return self.tflops * 1e12


@dataclass(frozen=True)
class Cluster:
    """gpus: in all; a_node: GPUs of a node; network: bytes/s all GPUs of a node share to the outside."""

    gpu: Gpu
    gpus: int
    a_node: int
    network: float

    @property
    def on_cuda(self) -> bool:
        return self.gpu.name != "CPU"

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.a_node)

    @property
    def here(self) -> int:
        """GPUs of a node that take part."""
        return min(self.a_node, self.gpus)


def _gpu(name: str, hbm: float, links: float, reached: float, family: Family, gigabits: float, dollars: float, **other) -> Gpu:
    """A row: TB/s of memory, GB/s of links, Gb/s of a node's network. Peak and memory are train/world/machine.py's."""
    known = name.replace("-80", "").replace(" (500 W)", "").replace(" SXM", "")
    tflops = other.pop("tflops", None) or next(value for part, value in PEAK_TFLOPS if part in known.replace("-40", ""))
    gib = other.pop("gib", None) or DEVICE_GIB[known.removesuffix(" PCIe")]
    return Gpu(name, tflops, gib, hbm * 1e12, links * 1e9, reached, family, gigabits * GBIT, dollars, **other)


# By a part of the name, the first that fits: longer names before their shorter ones. Dollars: what clouds ask for an hour without a
# commitment, of the order seen in 2025 and 2026; one's own price is --price.
GPUS = (
    _gpu("H100 (500 W)", 2.4, 330, 0.80, "hopper", 3200, 3.0, gib=96, capped=True),
    _gpu("H100 PCIe", 2.0, 45, 0.70, "hopper", 800, 2.5, tflops=756),
    _gpu("H100 NVL", 3.9, 200, 0.75, "hopper", 800, 2.8, tflops=835, gib=94),
    _gpu("GH200", 4.0, 330, 0.80, "hopper", 1600, 3.0),
    _gpu("H200", 4.8, 330, 0.80, "hopper", 3200, 3.8),
    _gpu("H800", 3.35, 150, 0.80, "hopper", 3200, 3.0),
    _gpu("H20", 4.0, 330, 0.90, "hopper", 3200, 2.0, tflops=148, gib=96),
    _gpu("H100", 3.35, 330, 0.80, "hopper", 3200, 3.0),
    _gpu("GB300", 8.0, 650, 0.78, "hopper", 6400, 8.0, tflops=2500, gib=288),
    _gpu("GB200", 8.0, 650, 0.78, "hopper", 3200, 7.0, gib=186),
    _gpu("B300", 8.0, 650, 0.78, "hopper", 6400, 7.0),
    _gpu("B200", 8.0, 650, 0.78, "hopper", 3200, 5.5),
    _gpu("B100", 8.0, 650, 0.78, "hopper", 3200, 5.0, tflops=1750, gib=180),
    _gpu("A100-40 PCIe", 1.55, 20, 0.82, "ampere", 400, 1.2, tflops=312, gib=40),
    _gpu("A100-40", 1.55, 220, 0.87, "ampere", 1600, 1.3),
    _gpu("A800", 2.0, 150, 0.87, "ampere", 1600, 1.6),
    _gpu("A100 PCIe", 1.94, 20, 0.82, "ampere", 400, 1.5, tflops=312, gib=80),
    _gpu("A100", 2.0, 220, 0.87, "ampere", 1600, 1.8),
    _gpu("MI355X", 8.0, 350, 0.6, "ampere", 3200, 4.0, tflops=2500, gib=288),
    _gpu("MI325X", 6.0, 300, 0.51, "ampere", 3200, 3.0, tflops=1307, gib=256),
    _gpu("MI300X", 5.3, 300, 0.51, "ampere", 3200, 2.5),
    _gpu("MI250X", 1.6, 100, 0.75, "ampere", 800, 1.2, gib=64),  # of one of its two dies, which is a device of its own
    _gpu("MI210", 1.6, 100, 0.75, "ampere", 400, 1.0, tflops=181, gib=64),
    _gpu("A30", 0.93, 20, 0.82, "ampere", 200, 0.8, tflops=165, gib=24),
    _gpu("RTX PRO 6000", 1.79, 40, 0.75, "ampere", 400, 1.8, tflops=500, gib=96),
    _gpu("A6000", 0.77, 20, 0.75, "ampere", 200, 0.8),
    _gpu("A5000", 0.77, 20, 0.75, "ampere", 100, 0.5, tflops=111, gib=24),
    _gpu("L40S", 0.86, 20, 0.65, "ampere", 400, 1.2),
    _gpu("6000 Ada", 0.96, 20, 0.65, "ampere", 200, 1.0, tflops=364, gib=48),
    _gpu("L40", 0.86, 20, 0.75, "ampere", 400, 1.0, tflops=181, gib=48),
    _gpu("L4", 0.30, 12, 0.55, "ampere", 100, 0.7, tflops=121),
    _gpu("A10G", 0.60, 12, 0.75, "ampere", 100, 1.0, tflops=70, gib=24),
    _gpu("L20", 0.86, 20, 0.80, "ampere", 200, 0.9, tflops=119, gib=48),
    _gpu("RTX 5090", 1.79, 40, 0.85, "ampere", 100, 0.7, tflops=209, gib=32),
    _gpu("RTX 4090", 1.01, 18, 0.85, "ampere", 100, 0.5, tflops=165, gib=24),
    _gpu("RTX 3090", 0.94, 18, 0.90, "ampere", 100, 0.3, tflops=71, gib=24),
    _gpu("V100", 0.9, 110, 0.80, "ampere", 100, 1.0),
    _gpu("T4", 0.32, 12, 0.60, "ampere", 50, 0.4, tflops=65),
)
NO_BF16 = ("V100", "T4")
# ranks of a computer without any: of one, fp32; of the order of two cores of a server. What a process holds besides is IMPORTED's
CPU = Gpu("CPU", 0.1, 0.0, 8e9, 1e9, 0.9, "ampere", GBIT * 10, 0.05)
OTHER_NAMES = {
    "RTX 5090": ("5090",),
    "RTX 4090": ("4090",),
    "RTX 3090": ("3090",),
    "MI250X": ("MI250",),
    "A6000": ("A40",),
    "A10G": ("A10",),
    "MI300X": ("MI300",),
    "MI355X": ("MI350", "MI355"),
}
# hours between two failures that end a run, of one GPU with its share of host and network: Llama 3's run lost 419 times in 54 days of 16,384
# H100 (arXiv 2407.21783, table 5)
HOURS_BETWEEN_FAILURES = 54 * 24 * 16384 / 419


def gpu_named(text: str) -> Gpu:
    """The GPU whose name is part of `text`; `A100-40GB`, `a100_40gb`, `NVIDIA A100-SXM4-40GB` are one.

    Raises:
        ClusterError: none is.
    """
    word = text.lower()
    if word.strip() == "cpu":
        return CPU
    if "tpu" not in word:
        for gpu in GPUS:
            if any(_names(name, word) for name in (gpu.name, *OTHER_NAMES.get(gpu.name, ()))):
                return _of_memory(_variant(gpu, word), word)
    raise ClusterError(f"GPU {text}: not known; one of {', '.join(g.name for g in (*GPUS, CPU))}")


def _variant(gpu: Gpu, word: str) -> Gpu:
    """The one on a PCIe card, of half the memory, or with less power, where a name says so after its memory: `A100 80GB PCIe`."""
    if gpu.name == "H100" and re.search(r"500\s*w|96\s*g", word):
        return GPUS[0]
    name = gpu.name.removesuffix(" PCIe")
    on_a_card = gpu.name != name or re.search(r"pci-?e", word)
    if name == "A100" and re.search(r"(?<!\d)40\s*g|-40\b", word):
        name = "A100-40"
    if on_a_card and name in ("A100", "A100-40", "H100"):
        name += " PCIe"
    if name == "H100" and re.search(r"\bnvl\b", word):
        name = "H100 NVL"
    return _called(name)


def _of_memory(gpu: Gpu, word: str) -> Gpu:
    """With the memory that the name says where it is another: V100-16GB."""
    found = re.search(r"(?<!\d)(\d{2,3})\s*gi?b?\b(?!it|/s|ps)", word)
    said = float(found[1]) if found else gpu.gib
    other = 8 <= said <= 400 and abs(said - gpu.gib) > 0.1 * gpu.gib and gpu.name != "MI250X"  # whose two dies are a device each
    return with_memory(gpu, said) if other else gpu


def cluster(gpu: Gpu, gpus: int, nodes: int | None = None, gigabits: float | None = None) -> Cluster:
    """GPUs over nodes alike.

    Raises:
        ClusterError: the nodes do not divide the GPUs.
    """
    if nodes is not None and gpus % nodes:
        raise ClusterError(f"--nodes {nodes}: does not divide --gpus {gpus}; nodes have the same number of GPUs each")
    a_node = gpus // nodes if nodes else min(8, gpus)
    usual = gpu.network * max(1, a_node) / 8
    return Cluster(gpu, gpus, a_node, gigabits * GBIT if gigabits else usual)


def with_memory(gpu: Gpu, gib: float) -> Gpu:
    return dataclasses.replace(gpu, gib=gib)


def _called(name: str) -> Gpu:
    return next(g for g in GPUS if g.name == name)


def _names(name: str, text: str) -> bool:
    """Whether a text names it, with or without `-`, `_` and blanks: A100-SXM4, but not A1000."""
    letters = r"[\W_]*".join(re.escape(c) for c in name.lower() if c.isalnum())
    return re.search(rf"(?<![a-wyz]){letters}(?!\d)", text) is not None
