"""plan.py as its user meets it: lines, JSON, a table, mistakes."""

import csv
import json

import pytest

from launch.plan import main

CPT = ["cpt_7b", "--gpus", "8", "--gpu-type", "A100"]


def test_lines_tell_the_verdict_the_speed_and_the_cost(capsys):
    assert main([*CPT, "--search", "--price", "2", "tokens=1e9"]) == 0
    said = capsys.readouterr().out
    for word in (
        "verdict        fits",
        "tokens/s a GPU",
        "bound by       matrix products",
        "GPU-hours, $",
        "at $2.00 an hour",
        "words after the recipe",
        "saves",
    ):
        assert word in said, said


def test_json_is_one_object(capsys):
    assert main([*CPT, "--json", "--search", "--network", "400"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True and len(found["search"]) >= 3 and found["cluster"]["gpus"] == 8


def test_a_run_that_does_not_fit_is_planned_all_the_same(capsys):
    assert main(["cpt_70b", "--gpus", "8", "--gpu-type", "A100-40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is False and found["remedies"] and "DOES NOT FIT" in found["verdict"]


def test_more_gpus_than_rows_are_told_of(capsys):
    assert main(["cpt_70b", "--gpus", "1024", "--gpu-type", "H100", "--search"]) == 0
    assert "tokens_per_step=2097152: 512 rows a step for 1024 GPUs; raise it" in capsys.readouterr().out


def test_ranks_of_a_cpu_are_planned_in_main_memory(capsys):
    assert main(["quickstart", "--gpus", "2", "--gpu-type", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peak_memory_gib"] > 1 and all(i["where"] == "host" for i in found["memory"])


def test_a_table_is_written_whole_beside_what_it_says(tmp_path, capsys):
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("id,model,gpu,n_gpu,tok_s_gpu\na,llama2-7b,A100,8,4000\nb,llama2-7b,TPU v4,8,\n", encoding="utf-8-sig")
    assert main(["--table", str(rows), "--out", str(out)]) == 0
    a, b = csv.DictReader(out.open())
    assert float(a["predicted_tokens_per_second_per_gpu"]) > 1000 and float(a["predicted_peak_memory_gib"]) > 10
    assert b["predicted_tokens_per_second_per_gpu"] == "" and "TPU v4: not known" in b["predicted_note"]
    assert "1 rows predicted, 1 not" in capsys.readouterr().out and sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "rows.csv"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cpt_7b", "--gpus", "8", "--gpu-type", "RTX9"], "error: GPU RTX9: not known; one of "),
        (["cpt_7b", "--gpus", "9", "--gpu-type", "H100", "--nodes", "2"], "--nodes 2: does not divide --gpus 9"),
        (["cpt_7b", "micro_batch=0", "--gpus", "8", "--gpu-type", "H100"], "micro_batch=0"),
        (["cpt_7b", "model.path=models/mixtral-8x7b", "--gpus", "8", "--gpu-type", "H100"], "mixture of experts"),
        ([*CPT, "--measured", "none.json"], "--measured none.json: cannot be read"),
        (["--table", "none.csv", "--out", "no/x.csv"], "--out no/x.csv: cannot be written (no such folder)"),
        (["--table", "none.csv", "--out", "x.csv"], "--table none.csv: cannot be read"),
        (
            ["cpt_70b", "deepspeed=ds_configs/zero3_hpz.json", "--gpus", "12", "--gpu-type", "H100"],
            "zero_hpz_partition_size=8: does not divide the 12 ranks",
        ),
    ],
)
def test_a_mistake_is_one_message(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    told = capsys.readouterr()
    assert said in told.err and not told.out and "Traceback" not in told.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["cpt_7b"], ["--table", "a.csv"], [*CPT[:2], "0", *CPT[3:]], [*CPT, "--network", "-1"]])
def test_what_is_missing_is_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2 and "usage" in capsys.readouterr().err
