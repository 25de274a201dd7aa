"""`model.path` → a local Hugging Face folder: a folder as it stands, a GGUF file unpacked once, a Hub name fetched.

Only safetensors, configs and tokenizers are fetched: no pickle, no code.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from train.model_files import adapter
from train.model_files.companions import companion_files, write_companions
from train.model_files.dtypes import FP32, known
from train.model_files.folder import HUB_NAME, ModelError
from train.model_files.gguf_rope import scaling_of
from train.model_files.writer import Writer

if TYPE_CHECKING:
    from train.world.ranks import World


def resolve(path: str, world: World) -> Path:
    """The folder to load from; one rank of each node prepares it while the others wait.

    Raises:
        ModelError: on every rank, when there is no such model.
    """
    fault = ""
    if world.local_rank == 0:
        try:
            _prepare(path)
        except (ModelError, OSError) as error:
            fault = str(error)
    faults = [f for f in world.gather(fault) if f]
    if faults:
        raise ModelError(faults[0])
    return local_folder(path)


def local_folder(path: str) -> Path:
    """Where the folder of a model path lies, or will lie."""
    given = Path(path)
    if given.suffix == ".gguf":
        return given.with_suffix("").with_name(given.stem + "-hf")
    if given.exists() or not HUB_NAME.match(path):
        return given
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, local_files_only=True, allow_patterns=_WANTED))


def base_of_adapter(folder: Path) -> Path:
    """Where an adapter's base lies on this machine.

    Raises:
        AdapterError: it is not here.
    """
    was, named = adapter.base_of(folder) or {}, adapter.config_of(folder).get("base_model_name_or_path")
    for name in dict.fromkeys(str(n) for n in (was.get("folder"), was.get("path"), named) if n):
        if adapter.is_adapter(Path(name)):
            raise adapter.AdapterError(
                f"{folder}: its base {name} is itself an adapter; merge that one first: python launch/export_hf.py {name} OUT --merge-adapter, "
                "and name OUT as base_model_name_or_path"
            )
        if Path(name).is_dir():
            return Path(name)
        if HUB_NAME.match(name):
            try:
                return local_folder(name)
            except OSError:
                continue  # not fetched to this machine
    elsewhere = "" if was else f", or name the folder it lies in as base_model_name_or_path in {folder / adapter.CONFIG}"
    raise adapter.AdapterError(
        f"{folder}: its base {was.get('path') or named or '(it names none)'} is not here; put it or a link to it there{elsewhere}; to export, give its folder by --base DIR"
    )


_WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "*.jinja",
]


def _prepare(path: str) -> None:
    given = Path(path)
    if given.suffix == ".gguf":
        if not given.is_file():
            raise ModelError(f"model.path={path}: no such file")
        if not (local_folder(path) / "config.json").is_file():
            unpack_gguf(given, local_folder(path))
    elif given.is_dir():
        if (given / adapter.CONFIG).is_file():
            raise ModelError(
                f"model.path={path}: an adapter, not a model; give its base as model.path and this folder as adapter.path, or merge them once: "
                f"python launch/export_hf.py {path} OUT --merge-adapter"
            )
    elif HUB_NAME.match(path):
        _fetch(path)
    else:
        raise ModelError(
            f"model.path={path}: no such folder; give a Hugging Face model folder, a .gguf file, or a Hub name like meta-llama/Llama-2-7b-hf. "
            f"A model of the Hub gets there by: hf download OWNER/{given.name} --local-dir {path}"
        )


def _fetch(name: str) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(name, allow_patterns=_WANTED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model.path={name}: no such folder here, and the Hub does not give it ({reason}); download it to a folder, or check name, access and network"
        ) from None


def unpack_gguf(file: Path, folder: Path) -> None:
    """Dequantize a GGUF file into a Hugging Face folder of fp32 safetensors, published atomically. Needs the whole model in memory.

    Raises:
        ModelError: it stretches RoPE in a way that is not read here.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scaling = scaling_of(file)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    distinct = dict(model.named_parameters())  # a tied head stands here once
    folder.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        # not model.save_pretrained: transformers refuses to save a model that came quantized
        writer = Writer(tmp / "model.safetensors", {n: (known(p.dtype), tuple(p.shape)) for n, p in distinct.items()})
        for name, parameter in distinct.items():
            writer.stream(name, [parameter.reshape(-1)])
        writer.close()
        config.architectures, config.dtype = [type(model).__name__], "float32"
        if scaling and (config.rope_parameters or {}).get("rope_type", "default") == "default":
            config.rope_parameters = (config.rope_parameters or {}) | scaling
        config.save_pretrained(tmp)
        tokenizer.save_pretrained(tmp)
        write_companions(companion_files(tmp, {}, FP32), tmp)
        tmp.chmod(0o755)
        os.rename(tmp, folder)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
