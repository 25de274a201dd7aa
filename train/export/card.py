"""README.md of an export: front matter that the Hub reads, then what the model was made of, by which recipe, and how far.

    ---
    library_name: transformers
    license: llama2
    base_model: [meta-llama/Llama-2-7b-hf]
    …
    ---
    # cpt_7b                           | training | 3,148 steps, 3,300,917,248 tokens … |

A figure stands there only if it was measured of this very model (measured.py): a merge and a mean of steps have none of their parts'.
A release says more: the licence and what it asks for, how to use the model, the command that made it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from train.checkpoint.layout import STATE
from train.data.provenance import Source, sources
from train.export import licenses
from train.export.licenses import Licensed
from train.export.measured import Figure, model_index, of_card, of_results, of_state
from train.model_files.dtypes import DType
from train.model_files.folder import HUB_NAME
from train.world.places import is_remote, resolved
from train.world.redact import redacted

CARD = "README.md"
LONGEST = 1 << 20  # bytes of another's card that are read
# licences of models that are known by their Hub name, where no card of theirs is here
LICENSES = (
    (r"meta-llama/(Meta-)?Llama-2-", "llama2"), (r"meta-llama/(Meta-)?Llama-3-", "llama3"), (r"meta-llama/(Meta-)?Llama-3\.1-", "llama3.1"),
    (r"meta-llama/(Meta-)?Llama-3\.2-", "llama3.2"), (r"meta-llama/(Meta-)?Llama-3\.3-", "llama3.3"), (r"HuggingFaceTB/SmolLM", "apache-2.0"),
    (r"allenai/OLMo-2-", "apache-2.0"), (r"mistralai/Mistral-7B-", "apache-2.0"),
)  # fmt: skip
FILE = re.compile(r"\.(jsonl?|parquet|csv|tsv|txt|arrow)(\.\w+)?$")
UNKNOWN = {"license": "other", "license_name": "of-the-base-model"}
MOST_BASES = 8  # a model trained on a model trained on …
MOST_INPUTS = 20  # of a source that are named
RECORD = "export.json"


@dataclass(frozen=True)
class Parts:
    """What a model was made of.

    Args:
        own: the checkpoint, or the steps of one run whose mean it is. merged: the models added to it. made_of: a line for each.
    """

    own: Sequence[Path]
    merged: Sequence[Path]
    made_of: Sequence[str]
    license: str | None = None  # as the user gives it
    results: Sequence[Path] = ()  # folders with evaluations, beside those of the run
    release: Release | None = None
    adapter: bool = False  # what is written is an adapter, no model


@dataclass(frozen=True)
class Release:
    """What is published: under which name, and by which command it was made."""

    name: str
    command: str
    texts: Sequence[Path] = ()  # of the licence, as the user gives them

    def asked(self, license: str | None, results: Sequence[Path]) -> dict[str, Any]:
        """What the card was made of: another release has other values."""
        return {"name": self.name, "license": license, "texts": [p.name for p in self.texts], "results": [str(p) for p in results]}

    def licensed(self, parts: Parts) -> Licensed:
        state = _state(parts.own[-1])
        folders = [parts.own[-1], *(folder for folder, _ in _bases(parts.own[-1], state) if folder), *parts.merged]
        return licenses.licensed(_front(parts, state)["license"], folders, self.texts)


def model_card(parts: Parts, dtype: DType) -> str:
    """The whole text, valid whatever the names in it are."""
    newest, release = parts.own[-1], parts.release
    state = _state(newest)
    name = release.name if release else resolved(newest).parent.parent.name if state else resolved(newest).name
    figures = _figures(parts, state)
    front = _front(parts, state) | ({"model-index": index} if (index := model_index(name, figures)) else {})
    lines = ["---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(), "---", "", f"# {_inline(name)}", ""]
    if parts.made_of:
        lines += ["Made of:", "", *(f"- {_inline(line)}" for line in parts.made_of), ""]
    if not figures and parts.made_of:
        lines += ["Nothing was measured of this model itself: figures of its parts do not hold for it.", ""]
    if state:
        what = "Training of a low-rank adapter" if state["recipe"].get("adapter") else "Full-parameter training"
        by = f"{what} with astrollama-trainer (DeepSpeed ZeRO-3, packed documents)"
        lines += [f"The first part: {by[0].lower()}{by[1:]}." if parts.merged else f"{by}.", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {_inline(value)} |" for key, value in _facts(state, dtype, measured=not parts.made_of).items()]
        lines += ["", "## Data", "", *(line for source in sources(state["recipe"]) for line in _told(source))]
    elif not (kept := _kept_body(newest)):
        lines += [f"Weights in {dtype}."]
    else:
        lines += [kept]
    if figures and (state or not kept or parts.results):
        lines += ["", "## Figures", "", *map(_figure, figures)]
    return "\n".join([*lines, *(_released(parts, release, front) if release else []), ""])


def _figures(parts: Parts, state: dict[str, Any] | None) -> list[Figure]:
    newest = parts.own[-1]
    if parts.made_of:
        return []
    if state is None:
        carried = of_card(_front_of(newest))
        return list(dict.fromkeys([*carried, *of_results(parts.results, [newest])]))
    of_run = [] if is_remote(newest) else [newest.parent.parent / "eval"]
    return [*of_state(state), *of_results([*of_run, *parts.results], [newest])]


def _figure(f: Figure) -> str:
    interval = f" (95% interval {f.interval[0]:.4g} to {f.interval[1]:.4g})" if f.interval else ""
    before = f"; before training {f.before:.4g}" if f.before is not None else ""
    return f"- {_inline(f.data)}: {f.words} {f.value:.4g}{interval}{before}{f' ({_inline(f.how)})' if f.how else ''}"


def _told(source: Source) -> list[str]:
    """What is known of a source, without the folders of whoever trained."""
    counts = ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in source.counts.items())
    weight = f", weight {source.weight:g}" if source.weight is not None else ""
    lines = [f"- {_inline(source.name)} ({source.use}{weight}): {counts or source.said}"]
    for path, digest in source.inputs[:MOST_INPUTS]:
        shown = path if HUB_NAME.match(path.partition(":")[0]) and not FILE.search(path) else Path(path).name
        lines.append(f"  - from {_inline(shown)}{f', {digest}' if digest else ''}")
    beyond = len(source.inputs[MOST_INPUTS:]) + source.left_out
    return [*lines, *([f"  - and {beyond:,} more"] if beyond else [])]


def _kept_body(folder: Path) -> str:
    """The text of the card of an export of ours, without front matter and title."""
    file = folder / CARD
    if not (folder / RECORD).is_file() or not file.is_file() or file.stat().st_size > LONGEST:
        return ""
    text = re.sub(r"\A---\s*\n.*?\n---\s*\n", "", file.read_text(encoding="utf-8", errors="replace"), flags=re.DOTALL).strip()
    return re.sub(r"\A# .*\n+", "", text)


def _released(parts: Parts, release: Release, front: dict[str, Any]) -> list[str]:
    """The licence, how it is used, how it was made."""
    chat = "conversational" in front["tags"]
    use = ['pipe = pipeline("text-generation", model=MODEL)  # MODEL: this folder, or its name on the Hub']
    use += ['pipe([{"role": "user", "content": "What is a blazar?"}])' if chat else 'pipe("The rotation curves of spiral galaxies")']
    lines = ["", "## Use", "", "```python", "from transformers import pipeline", "", *use, "```"]
    lines += ["", "## Licence", "", *licenses.note(release.licensed(parts))]
    return [*lines, "", "## Made by", "", "```", redacted(release.command), "```"]


def _state(folder: Path) -> dict[str, Any] | None:
    file = folder / STATE
    return json.loads(file.read_text()) if file.is_file() else None


def _inline(text: str) -> str:
    """One line of Markdown that means itself, in a table, too."""
    return re.sub(r"([\\|<>`*_\[\]#])", r"\\\1", " ".join(str(text).split())) if re.search(r"[\\|<>`\[\]\n]", str(text)) else str(text)


def _adapter(section: dict[str, Any] | None, quantize: str) -> dict[str, str]:
    """What of the model was trained; nothing to say where it was all of it."""
    if not section:
        return {}
    alpha, also = section["alpha"] or (2 * section["rank"] if section["rank"] else None), section["train_also"]
    size = (
        f"rank {section['rank']}, alpha {alpha:g}, {section['scaling']} scaling"
        if section["rank"] and alpha
        else f"begun as {section['path']}"
    )
    where = ", ".join(section["targets"]) or "all linear layers of the decoder"
    more = [f"trained whole: {', '.join(also)}"] * bool(also) + [f"on a base held in {quantize}"] * (quantize != "none")
    return {"adapter": "; ".join([f"LoRA, {size}, at {where}", *more])}


def _facts(state: dict[str, Any], dtype: DType, measured: bool) -> dict[str, str]:
    recipe = state["recipe"]
    optim, sources = recipe["optim"], recipe["data"]["sources"]
    shares = (f"{name}{'' if s['weight'] is None else ' ' + format(s['weight'], 'g')}" for name, s in sources.items())
    steps = f"{state['step']:,} steps, {state['tokens']:,} tokens, " if measured else ""
    facts = {
        "base model": recipe["model"]["path"],
        **_adapter(recipe.get("adapter"), recipe["model"].get("quantize", "none")),
        "training": f"{steps}{recipe['tokens_per_step']:,} tokens a step, rows of {recipe['data']['seq_len']}",
        "sources": ", ".join(shares),
        "optimizer": f"AdamW, lr {optim['lr']:g} {recipe['schedule']['kind']}, betas {optim['betas']}, weight decay {optim['weight_decay']:g}, clip {optim['clip']:g}",
        "weights": dtype.name,
        "versions": ", ".join(f"{k} {v}" for k, v in state["versions"].items()),
    }
    if measured and state.get("heldout_loss") is not None:
        facts["held-out perplexity"] = f"{math.exp(min(state['heldout_loss'], 700.0)):.3f} (mean over held-out sources of the loss)"
    return facts


# -- front matter -----------------------------------------------------------------------------------------------------


def _front(parts: Parts, state: dict[str, Any] | None) -> dict[str, Any]:
    """What the Hub's index reads (huggingface.co/docs/hub/model-cards). A key whose value is not known is left out, but for the licence."""
    newest = parts.own[-1]
    bases = list(_bases(newest, state))
    cards = [_front_of(folder) for folder in (newest, *(folder for folder, _ in bases)) if folder is not None]
    ids = list(dict.fromkeys(hub for _, hub in bases[-1:] if hub)) or _texts(
        next((c["base_model"] for c in cards if "base_model" in c), None)
    )
    front: dict[str, Any] = {
        "library_name": "peft" if parts.adapter else "transformers",
        "pipeline_tag": "text-generation",
        **_license(parts.license, cards, ids),
    }
    if ids:
        front["base_model"] = ids
        if not parts.merged and state:
            front["base_model_relation"] = "adapter" if parts.adapter else "finetune"
    if datasets := _datasets(state):
        front["datasets"] = datasets
    front["language"] = next((found for card in cards if (found := _texts(card.get("language")))), ["en"])
    chat = (newest / "chat_template.jinja").is_file()
    front["tags"] = ["astronomy", "llama", *(["astrollama-trainer"] if state else []), *(["conversational"] if chat else [])]
    front["tags"] += ["merge"] if parts.made_of else []
    return front


def _license(given: str | None, cards: list[dict[str, Any]], ids: list[str]) -> dict[str, str]:
    if given:
        return {"license": given}
    for card in cards:
        if isinstance(card.get("license"), str):
            return {key: card[key] for key in ("license", "license_name", "license_link") if isinstance(card.get(key), str)}
    known = next((license for hub in ids for pattern, license in LICENSES if re.match(pattern, hub)), None)
    return {"license": known} if known else dict(UNKNOWN)


def _bases(folder: Path, state: dict[str, Any] | None) -> Iterator[tuple[Path | None, str | None]]:
    """What a model was trained from, and that from, back to the first: the folder where it is here, the Hub's name where it has one."""
    for _ in range(MOST_BASES):
        if state is None:
            return
        path = str(state["recipe"]["model"]["path"])
        record = folder.parent.parent / "base_model.json"
        recorded = json.loads(record.read_text()).get("folder") if record.is_file() else None
        here = next((Path(p) for p in (path, recorded) if p and Path(p).is_dir()), None)
        yield here, path if HUB_NAME.match(path) and not Path(path).exists() else None
        if here is None:
            return
        folder, state = here, _state(here)


def _front_of(folder: Path) -> dict[str, Any]:
    """Front matter of a card that lies in a folder; empty where there is none that can be read."""
    file = folder / CARD
    try:
        if not file.is_file():
            return {}
        with file.open("rb") as f:
            text = f.read(LONGEST).decode("utf-8", "replace")
        matter = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        found = yaml.safe_load(matter.group(1)) if matter else None
    except (OSError, yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _datasets(state: dict[str, Any] | None) -> list[str]:
    """Hub names of what the shards were made from, where the shards are here and tell."""
    found: dict[str, None] = {}
    for source in (state["recipe"]["data"]["sources"] if state else {}).values():
        file = Path(source.get("path") or "") / "manifest.json"
        try:
            inputs = json.loads(file.read_text())["inputs"] if file.is_file() else []
            names = [str(one["path"]).partition(":")[0] for one in inputs]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        found |= dict.fromkeys(name for name in names if HUB_NAME.match(name) and not FILE.search(name) and not Path(name).exists())
    return list(found)
