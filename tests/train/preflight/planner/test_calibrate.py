"""The constants are those of the fit, the fit is sane, and rows it has not seen are predicted."""

import dataclasses
import json

import numpy as np
import pytest

from train.preflight.planner import calibrate
from train.preflight.planner.calibrated import FILE, constants
from train.preflight.planner.published import read


@pytest.fixture(scope="module")
def known():
    return calibrate.known()


def test_the_kept_constants_are_what_the_fit_gives(known):
    made = calibrate.fit(known)
    for name, value in dataclasses.asdict(made).items():
        assert getattr(constants(), name) == pytest.approx(value, rel=2e-3), (
            f"{name}: run python -m train.preflight.planner.calibrate --write"
        )
    assert json.loads(FILE.read_text())["rows"] == len(known)


def test_every_constant_stays_near_what_is_known_of_it_without_the_fit():
    for name, (prior, width) in calibrate.PRIORS.items():
        assert abs(np.log(getattr(constants(), name) / prior)) < 2 * np.log(1 + width / prior), name


def test_rows_in_bf16_whose_source_the_fit_has_not_seen_are_predicted_but_for_those_their_source_contradicts(known):
    bf16 = {k.name for k in known if not k.job.fp8}
    out = {name: error for name, error in calibrate.left_out(known).items() if name in bf16}
    assert len(out) >= 60 and np.abs(list(out.values())).mean() < 0.07
    assert {name for name, error in out.items() if abs(error) > 0.2} == set(calibrate.CONTRADICTED)


# Published elsewhere and not among the rows of the fit: llm-foundry's benchmarking tables for other sizes, fms-fsdp's 34B, DeepSpeedExamples'
# charts for its ZeRO-3 (read off, 2%), other sizes of InternEvo's and MaxText's clusters
ELSEWHERE = [
    ("mpt-30b", 32, "H100-80GB", 2048, 14, 1344, "full", "FSDP grad-accum 3", "llm-foundry", 2308), ("mpt-30b", 32, "A100-40GB", 2048, 4, 128, "full", "FSDP", "llm-foundry", 857),
    ("mpt-3b", 8, "A100-80GB", 2048, 10, 160, "none", "FSDP grad-accum 2", "llm-foundry", 10811), ("mpt-3b", 8, "H100-80GB", 8192, 3, 144, "none", "FSDP", "llm-foundry", 16578),
    ("mpt-1b", 8, "A100-80GB", 4096, 7, 224, "none", "FSDP", "llm-foundry", 17807), ("mpt-13b", 16, "A100-40GB", 2048, 10, 160, "full", "FSDP", "llm-foundry", 1993),
    ("mpt-7b", 8, "A100-80GB", 16384, 4, 64, "full", "FSDP", "llm-foundry", 2453), ("llama2-34b", 128, "A100-80GB", 4096, 2, 256, "full", "FSDP", "fms-fsdp", 700),
    ("llama2-34b", 96, "H100-80GB", 4096, 2, 192, "full", "FSDP", "fms-fsdp", 1550), ("llama3-70b", 32, "H100", 1024, 4, 128, "full", "ZeRO-3", "DeepSpeed", 728),
    ("llama3-70b", 32, "H100", 1024, 1, 32, "full", "ZeRO-3", "DeepSpeed", 396),
    ("internlm-7b", 512, "A100-80GB", 2048, 2, 4096, "none", "ZeRO-1 over all ranks", "InternEvo", 2861), ("internlm-7b", 32, "A100-80GB", 2048, 2, 256, "none", "ZeRO-1 over all ranks", "InternEvo", 3752),
    ("internlm-7b", 256, "A100-80GB", 2048, 2, 2048, "none", "ZeRO-1 over 8", "InternEvo", 3920), ("internlm-7b", 1024, "A100-80GB", 2048, 8, 8192, "full", "ZeRO-1 over 8", "InternEvo", 3163),
    ("internlm-7b", 1024, "A100-80GB", 2048, 4, 8192, "none", "TP2 ZeRO-1 over all ranks", "InternEvo", 2785), ("llama2-7b", 32, "H100-80GB", 4096, 4, 128, "save_dot", "FSDP8 in node x DP4", "MaxText, A3", 8831),
]  # fmt: skip


def test_published_rows_that_no_fit_has_seen_are_predicted():
    columns = ("model", "n_gpu", "gpu", "seq_len", "micro_batch_seqs", "global_batch_seqs", "act_ckpt", "parallelism", "system")
    networks = {
        "InternEvo": {"A100-80GB": "4 x 100 Gb/s per node"},
        "MaxText, A3": {"H100-80GB": "GCP A3"},
        "fms-fsdp": {"A100-80GB": "400 Gb/s per node", "H100-80GB": "800 Gb/s per node"},
    }
    rows = []
    for *values, rate in ELSEWHERE:
        row = dict(zip(columns, map(str, values), strict=True))
        rows.append(
            {**row, "id": row["model"], "tok_s_gpu": str(rate), "interconnect": networks.get(row["system"], {}).get(row["gpu"], "NVLink")}
        )
        assert not read(rows[-1]).job.fp8
    errors = np.array(list(calibrate.errors(calibrate.known([{**r, "id": f"{i}"} for i, r in enumerate(rows)]), constants()).values()))
    assert len(errors) == len(ELSEWHERE) and np.abs(errors).mean() < 0.07
    # but for DeepSpeed's thousand tokens a GPU (+24%), whose network its chart does not tell
    assert np.sum(np.abs(errors) > 0.2) <= 1 and np.abs(errors).max() < 0.27
