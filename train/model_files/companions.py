"""What lies beside the weights in a model folder: config, tokenizer, generation config. Without torch."""

from __future__ import annotations

import json
from pathlib import Path

from data_tools.shards.merges import as_words
from train.model_files.dtypes import DType
from train.model_files.old_readers import old_config, old_dtype, old_tokenizer
from train.model_files.shapes import parsed, read_config

# what a model folder needs besides weights, so that transformers opens a checkpoint and chat templates travel along
COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt",
)  # fmt: skip
MORE_TEMPLATES = "additional_chat_templates/*.jinja"  # by other names than the default one
# what transformers takes for "not set" in a generation config; another value without do_sample makes its save_pretrained refuse
SAMPLING = {
    "temperature": (None, 1.0), "top_p": (None, 1.0), "min_p": (None,), "top_h": (None,), "typical_p": (None, 1.0), "top_k": (None, 50),
    "epsilon_cutoff": (None, 0.0), "eta_cutoff": (None, 0.0),
}  # fmt: skip
BEAMS = {"early_stopping": (None, False), "length_penalty": (None, 1.0)}
OUTPUTS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")


def generation_faults(file: Path) -> list[str]:
    """Why transformers would refuse to save this generation config, and what to change."""
    if not file.is_file():
        return []
    values = read_config(file)
    faults = []
    if values.get("do_sample") is not True:
        wrong = [f"{k}={values[k]}" for k, unset in SAMPLING.items() if values.get(k) not in unset]
        if wrong:
            faults.append(
                f"{file.name}: {', '.join(wrong)} without do_sample; set do_sample to true, or take {'it' if len(wrong) == 1 else 'them'} out"
            )
    beams = values.get("num_beams") or 1
    if beams == 1:
        faults += [
            f"{file.name}: {k}={values[k]} without beams; set num_beams above 1, or take it out"
            for k, unset in BEAMS.items()
            if values.get(k) not in unset
        ]
    several = values.get("num_return_sequences") or 1
    if several > 1 and (several > beams if beams > 1 else values.get("do_sample") is not True):
        faults.append(f"{file.name}: num_return_sequences={several} needs do_sample, or as many beams; take it out")
    if (most := values.get("max_new_tokens")) is not None and most <= 0:
        faults.append(f"{file.name}: max_new_tokens={most}; give a positive number, or take it out")
    if (pad := values.get("pad_token_id")) is not None and pad < 0:
        faults.append(f"{file.name}: pad_token_id={pad}; give an id of the tokenizer, or take it out")
    if values.get("return_dict_in_generate") is not True:
        faults += [f"{file.name}: {k} without return_dict_in_generate; take it out" for k in OUTPUTS if values.get(k) is True]
    return faults


def companion_names(folder: Path) -> list[str]:
    """Names of the companions that a folder has, within it."""
    more = sorted(f"{path.parent.name}/{path.name}" for path in folder.glob(MORE_TEMPLATES))
    return [*(name for name in COMPANIONS if (folder / name).is_file()), *more]


def write_companions(files: dict[str, bytes], out: Path) -> None:
    for name, content in files.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)


def companion_files(companions: Path, instead: dict[str, str], dtype: DType) -> dict[str, bytes]:
    """Config, tokenizer and chat template of a model folder, as they go into one that this program writes: for older readers too.

    Raises:
        ConfigError: a file that is no JSON object.
    """
    files = {name: (companions / name).read_bytes() for name in companion_names(companions)}
    files |= {name: text.encode() for name, text in instead.items()}
    files["config.json"] = config_text(files["config.json"], dtype, companions / "config.json").encode()
    if "tokenizer.json" in files:
        files["tokenizer.json"] = as_words(files["tokenizer.json"])
    template = files.get("chat_template.jinja")
    for name, jinja in (("tokenizer_config.json", template), ("special_tokens_map.json", None)):
        if name in files:
            values = old_tokenizer(parsed(files[name], companions / name), None if jinja is None else jinja.decode())
            files[name] = (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
    return files


def config_text(config: bytes, dtype: DType, file: Path) -> str:
    """config.json, saying the dtype the weights have here, in old keys and new; `file` is where a fault of it lies."""
    return json.dumps(old_dtype(old_config(parsed(config, file)), dtype.name), indent=2) + "\n"
