"""What a process may take of this machine, and what its devices can do."""

from pathlib import Path

from train.world.machine import host_available, peak_tflops

GIB = 2**30


def machine(tmp_path: Path, cgroup: str, files: dict[str, str]) -> float:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 99999999 kB\nMemAvailable:   16777216 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return host_available(tmp_path / "proc", tmp_path / "cgroup") / GIB


def test_a_containers_limit_counts_not_the_machines_memory(tmp_path):
    files = {"memory.max": str(8 * GIB), "memory.current": str(3 * GIB), "memory.stat": f"anon 1\ninactive_file {1 * GIB}\n"}
    assert machine(tmp_path, "0::/\n", files) == 6  # cache of files can be given up


def test_a_limit_of_a_group_above_counts(tmp_path):
    files = {
        "job/memory.max": str(4 * GIB),
        "job/memory.current": str(1 * GIB),
        "job/step/memory.max": "max\n",
        "job/step/memory.current": "5",
    }
    assert machine(tmp_path, "0::/job/step\n", files) == 3


def test_a_limit_of_cgroup_v1_counts(tmp_path):
    files = {"memory/job/memory.limit_in_bytes": str(2 * GIB), "memory/job/memory.usage_in_bytes": str(GIB // 2)}
    assert machine(tmp_path, "5:cpu,cpuacct:/job\n4:memory:/job\n", files) == 1.5


def test_without_a_limit_the_systems_own_figure_counts(tmp_path):
    assert machine(tmp_path, "0::/\n", {"memory.max": "max\n", "memory.current": "1"}) == 16


def test_a_devices_peak_is_found_by_its_name():
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312 and peak_tflops("NVIDIA H100 PCIe") == 756 and peak_tflops("abacus") is None
