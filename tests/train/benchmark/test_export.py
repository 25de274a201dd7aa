"""launch/benchmark.py export: real rows of real processes on a small made checkpoint."""

import pytest

from launch.benchmark import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "beside"), [("ours", "cp + sync"), ("deepspeed", "zero_to_fp32.py + cast")])
def test_an_export_is_measured_beside_what_one_would_use_instead(tmp_path, capsys, kind, beside):
    assert main(["export", "--parameters", "2e5", "--kind", kind, "--dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "export_hf.py" in text and beside in text and "peak MB" in text and "disk reads GB/s" in text
    assert ("bit-equal to zero_to_fp32 + cast: 30 of 30" in text) == (kind == "deepspeed")
    assert list(tmp_path.iterdir()) == []
