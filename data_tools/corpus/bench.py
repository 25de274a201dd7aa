"""How fast text becomes shards, beside the ways others do it: same text, same vocabulary, same cores, one run.

text → a JSON-lines file a worker → each tool, from lines to token files on disk → MB/s of text

The rivals' patterns: Megatron (a pool, one document a call, one writer), datatrove's DocumentTokenizer, `datasets.map` with the
fast tokenizer and a memmap. What does not grow with a corpus is taken off everyone: each tool does a little text, then all of it,
and the difference counts.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.corpus.records import find_inputs, read_records, split_inputs
from data_tools.shards.fingerprint import tokenizer_file
from data_tools.tokens.tokenizer import Tokenizer, TokenizerError
from data_tools.work.tasks import cores

REFERENCE, FAST = "ours, reference tokenizer", "ours, fast path"
LITTLE_BYTES = 5_000_000  # more than FAST_FROM_BYTES in stages.py: the fast path is tried
BARS = {REFERENCE: 2.0, FAST: 8.0}  # times the best rival


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="text, as data_tools.prepare corpus reads it")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR")
    parser.add_argument("--text-field", default="text", metavar="F")
    parser.add_argument("--megabytes", type=float, default=48, help="text for each tool; repeated when the inputs hold less (default: 48)")
    parser.add_argument("--rounds", type=int, default=3, help="each tool's best of so many counts (default: 3)")
    parser.add_argument("--workers", type=int, default=cores())


def run(args: argparse.Namespace) -> dict[str, Any]:
    """`{"rows": [one a tool], "megabytes", "workers"}`; all tools must make the same number of tokens.

    MB/s: by the clock, the best of the rounds. MB/CPU-s: by processor time of all processes, which another
    program on the machine disturbs less.
    """
    tokenizer = Tokenizer.load(args.tokenizer)
    tools = {name: tool for name, tool in TOOLS.items() if _can_run(name, tokenizer)}
    best: dict[str, dict[str, Measured]] = {name: {} for name in tools}
    with tempfile.TemporaryDirectory() as scratch:
        room = Path(scratch)
        vocabulary = room / "tokenizer.json"
        vocabulary.write_text(_as_tokenizer_json(tokenizer))
        size, files = _write_text(args, room / "all", LITTLE_BYTES + int(args.megabytes * 1e6))
        little, few = _write_text(args, room / "little", LITTLE_BYTES)
        for turn, (name, tool) in itertools.product(range(args.rounds), tools.items()):
            print(f"round {turn + 1} of {args.rounds}: {name} …", file=sys.stderr, flush=True)
            for stage, lines in (("little", few), ("all", files)):
                measured = _measure(tool, lines, args, vocabulary, room / "out")
                best[name][stage] = measured.better(best[name].get(stage))
    assert len({each["all"].tokens for each in best.values()}) == 1, best
    rows = []
    for name, each in best.items():
        seconds, cpu_seconds = (getattr(each["all"], what) - getattr(each["little"], what) for what in ("seconds", "cpu_seconds"))
        megabytes = (size - little) / 1e6
        row = {"tool": name, "MB/s": round(megabytes / seconds, 1), "MB/CPU-s": round(megabytes / cpu_seconds, 1)}
        row |= {"seconds": round(each["all"].seconds, 1), "seconds for 5 MB": round(each["little"].seconds, 1)}
        rows.append(row)
    for column in ("MB/s", "MB/CPU-s"):
        rival = max(row[column] for row in rows if row["tool"] not in BARS)
        for row in rows:
            row[f"{column}, times the best rival"] = round(row[column] / rival, 1)
    return {"rows": [row | {"bar": BARS.get(row["tool"], "")} for row in rows], "megabytes": round(size / 1e6, 1), "workers": args.workers}


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu_seconds: float
    tokens: int

    def better(self, other: "Measured | None") -> "Measured":
        if other is None:
            return self
        return Measured(min(self.seconds, other.seconds), min(self.cpu_seconds, other.cpu_seconds), self.tokens)


def _measure(tool: Callable[..., int], lines: list[Path], args: argparse.Namespace, vocabulary: Path, out: Path) -> Measured:
    out.mkdir()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: processes that tools leave behind are ours to wait for, and to count
    started, cpu = time.perf_counter(), _cpu_seconds()
    tokens = tool(lines, args.tokenizer, vocabulary, out, args.workers)
    seconds = time.perf_counter() - started
    deadline = time.monotonic() + 5
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
    shutil.rmtree(out)
    return Measured(seconds, _cpu_seconds() - cpu, tokens)


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def _can_run(name: str, tokenizer: Tokenizer) -> bool:
    if name == FAST:
        return tokenizer.fast_path([])[0] is not None
    return tokenizer.file.suffix == ".model" or TOOLS[name] is not _megatron_sentencepiece


def _as_tokenizer_json(tokenizer: Tokenizer) -> str:
    """The rivals read tokenizer.json only; from a SentencePiece model one is made (its ids are compared in the end)."""
    if tokenizer.file.suffix != ".model":
        return tokenizer.file.read_text()
    try:
        from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json
    except ImportError as error:
        raise TokenizerError(
            f"{tokenizer.file}: the other tools need a tokenizer.json, which gigatoken makes; pip install gigatoken"
        ) from error
    return sentencepiece_to_tokenizer_json(tokenizer.file.read_bytes())


def _write_text(args: argparse.Namespace, folder: Path, size: int) -> tuple[int, list[Path]]:
    """About `size` bytes of text as JSON lines, dealt out to one file a worker."""
    folder.mkdir()
    files = [folder / f"{k}.jsonl" for k in range(args.workers)]
    written = 0
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(open(file, "w")) for file in files]
        for k, text in enumerate(_texts(args)):
            handles[k % args.workers].write(json.dumps({"id": str(k), "text": text}) + "\n")
            written += len(text.encode())
            if written >= size:
                break
    return written, files


def _texts(args: argparse.Namespace) -> Iterator[str]:
    while True:
        for part in split_inputs(find_inputs(args.inputs)):
            for _, record in read_records(part):
                if isinstance(record, dict) and isinstance(text := record.get(args.text_field), str) and text.strip():
                    yield text


# ---- ours: the command, as a user starts it ----


def _ours(files: list[Path], tokenizer: Path, out: Path, workers: int, *more: str) -> int:
    words = ["corpus", *map(str, files), "--tokenizer", str(tokenizer), "--out", str(out / "shards"), "--workers", str(workers), *more]
    command = [sys.executable, "-m", "data_tools.prepare", *words]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((out / "shards" / "manifest.json").read_text())["counts"]["tokens"]


def _ours_reference(files: list[Path], tokenizer: Path, vocabulary: Path, out: Path, workers: int) -> int:
    return _ours(files, tokenizer, out, workers, "--reference")


def _ours_fast(files: list[Path], tokenizer: Path, vocabulary: Path, out: Path, workers: int) -> int:
    return _ours(files, tokenizer, out, workers)


# ---- the rivals ----

_worker: dict[str, Any] = {}


def _start_tokenizers(vocabulary: str) -> None:
    import tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    loaded = tokenizers.Tokenizer.from_file(vocabulary)
    _worker["encode"] = lambda text: loaded.encode(text, add_special_tokens=False).ids


def _start_sentencepiece(model: str) -> None:
    import sentencepiece

    _worker["encode"] = sentencepiece.SentencePieceProcessor(model_file=model).encode


def _encode_line(line: str) -> list[int]:
    return [1, *_worker["encode"](json.loads(line)["text"]), 2]


def _megatron(files: list[Path], out: Path, workers: int, start: Callable[[str], None], file: str) -> int:
    """preprocess_data's way: lines → pool.imap, one document a call → one process appends to .bin and keeps the lengths."""
    import multiprocessing

    lengths = []
    with multiprocessing.get_context("fork").Pool(workers, start, (file,)) as pool, open(out / "tokens.bin", "wb") as tokens:
        for path in files:
            with open(path) as lines:
                for ids in pool.imap(_encode_line, lines, 32):
                    tokens.write(np.array(ids, dtype=np.uint16).tobytes())
                    lengths.append(len(ids))
    np.save(out / "lengths.npy", np.array(lengths, dtype=np.int32))
    return sum(lengths)


def _megatron_tokenizers(files: list[Path], tokenizer: Path, vocabulary: Path, out: Path, workers: int) -> int:
    return _megatron(files, out, workers, _start_tokenizers, str(vocabulary))


def _megatron_sentencepiece(files: list[Path], tokenizer: Path, vocabulary: Path, out: Path, workers: int) -> int:
    return _megatron(files, out, workers, _start_sentencepiece, str(tokenizer_file(tokenizer)))


def _datatrove(files: list[Path], tokenizer: Path, vocabulary: Path, out: Path, workers: int) -> int:
    """Its own road from lines to tokens, in a process of its own: it talks much."""
    words = [str(files[0].parent), str(out), str(vocabulary), str(workers)]
    subprocess.run([sys.executable, "-c", DATATROVE, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    documents = sum(path.stat().st_size for path in out.glob("*.index")) // 8
    return sum(path.stat().st_size for path in out.glob("*.ds")) // 2 + documents  # it writes no BOS


DATATROVE = """
import sys
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
if __name__ == "__main__":
    folder, out, vocabulary, workers = sys.argv[1:]
    steps = [JsonlReader(folder), DocumentTokenizer(out, vocabulary, eos_token="</s>", shuffle_documents=False)]
    LocalPipelineExecutor(steps, tasks=int(workers), workers=int(workers), logging_dir=out + "/logs", start_method="fork").run()
"""


def _datasets_map(files: list[Path], tokenizer: Path, vocabulary: Path, out: Path, workers: int) -> int:
    """nanoGPT's way with the fast tokenizer: load, map in batches over processes, copy into a memmap."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset("json", data_files=[str(file) for file in files], split="train", cache_dir=str(out / "cache"))
    encoded = data.map(
        _encode_batch, batched=True, num_proc=workers, remove_columns=data.column_names, fn_kwargs={"vocabulary": str(vocabulary)}
    )
    total = int(np.sum(encoded["length"], dtype=np.int64))
    tokens, start = np.memmap(out / "tokens.bin", dtype=np.uint16, mode="w+", shape=(total,)), 0
    for batch in encoded.with_format("numpy").iter(batch_size=4096):
        ids = np.concatenate(batch["ids"])
        tokens[start : start + len(ids)] = ids
        start += len(ids)
    tokens.flush()
    return total


def _encode_batch(rows: dict[str, list[str]], vocabulary: str) -> dict[str, list[Any]]:
    if "batch" not in _worker:
        import tokenizers

        _worker["batch"] = tokenizers.Tokenizer.from_file(vocabulary)
    ids = [[1, *encoding.ids, 2] for encoding in _worker["batch"].encode_batch(rows["text"], add_special_tokens=False)]
    return {"ids": ids, "length": [len(list) for list in ids]}


TOOLS: dict[str, Callable[..., int]] = {
    "Megatron pattern, tokenizers": _megatron_tokenizers,
    "Megatron pattern, sentencepiece": _megatron_sentencepiece,
    "datatrove DocumentTokenizer": _datatrove,
    "datasets.map": _datasets_map,
    REFERENCE: _ours_reference,
    FAST: _ours_fast,
}
