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
LEAST_MEGABYTES = 8  # of text beyond the little: less is lost in what other programs do to the clock
NEEDS = "papers/documents --tokenizer models/Llama-2-7b-hf"  # what the example of --help must have
BARS = {REFERENCE: 2.0, FAST: 8.0}  # times the best rival


ALIKE = 0.001  # the others take a mark such as </s> in a text for the mark itself


class BenchError(ValueError):
    """A comparison that says nothing, or a tool that failed; with the cause."""


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
    if not args.megabytes >= LEAST_MEGABYTES:
        raise BenchError(f"--megabytes {args.megabytes:g}: too little text for a rate; give at least {LEAST_MEGABYTES}")
    tokenizer = Tokenizer.load(args.tokenizer)
    marks = Marks.of(tokenizer)
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
                measured = _measure(tool, Task(lines, args.tokenizer, vocabulary, room / "out", args.workers, marks))
                best[name][stage] = measured.better(best[name].get(stage))
    counted = {name: each["all"].tokens for name, each in best.items()}
    if max(counted.values()) - min(counted.values()) > ALIKE * max(counted.values()):
        said = "; ".join(f"{name} {tokens:,}" for name, tokens in counted.items())
        raise BenchError(f"{args.tokenizer}: the tools do not make the same tokens of this text, so that their speeds say nothing: {said}")
    rows = []
    for name, each in best.items():
        seconds, cpu_seconds = (getattr(each["all"], what) - getattr(each["little"], what) for what in ("seconds", "cpu_seconds"))
        megabytes = (size - little) / 1e6
        if min(seconds, cpu_seconds) <= 0:
            raise BenchError(
                f"{name}: all the text took no longer than a little of it; give more --megabytes, or a machine with less to do"
            )
        row = {"tool": name, "MB/s": round(megabytes / seconds, 1), "MB/CPU-s": round(megabytes / cpu_seconds, 1)}
        row |= {"seconds": round(each["all"].seconds, 1), "seconds for 5 MB": round(each["little"].seconds, 1), "tokens": counted[name]}
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


@dataclass(frozen=True)
class Marks:
    """What stands before and behind a document, as `prepare corpus` puts it: ids, and the end's name; None for a tokenizer without."""

    bos: int | None
    eos: int | None
    eos_name: str | None
    dtype: str  # holds every id

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Marks":
        names = {id: name for name, id in tokenizer.control.items()}
        dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
        return cls(tokenizer.bos_id, tokenizer.eos_id, names.get(tokenizer.eos_id), dtype)

    def put(self, ids: list[int]) -> list[int]:
        return [*([] if self.bos is None else [self.bos]), *ids, *([] if self.eos is None else [self.eos])]


@dataclass(frozen=True)
class Task:
    """What each tool is given; vocabulary: a tokenizer.json."""

    files: list[Path]
    tokenizer: Path
    vocabulary: Path
    out: Path
    workers: int
    marks: Marks


def _measure(tool: Callable[[Task], int], task: Task) -> Measured:
    task.out.mkdir()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: processes that tools leave behind are ours to wait for, and to count
    started, cpu = time.perf_counter(), _cpu_seconds()
    tokens = tool(task)
    seconds = time.perf_counter() - started
    deadline = time.monotonic() + 5
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
    shutil.rmtree(task.out)
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
    found = True
    while found:
        found = False
        for part in split_inputs(find_inputs(args.inputs)):
            for _, record in read_records(part):
                if isinstance(record, dict) and isinstance(text := record.get(args.text_field), str) and text.strip():
                    found = True
                    yield text
    raise BenchError(f"{' '.join(map(str, args.inputs))}: no text in the field {args.text_field!r}; see --text-field")


# ---- ours: the command, as a user starts it ----


def _ours(task: Task, *more: str) -> int:
    out = task.out / "shards"
    words = ["corpus", *map(str, task.files), "--tokenizer", str(task.tokenizer), "--out", str(out), "--workers", str(task.workers), *more]
    words += ["--no-bos"] * (task.marks.bos is None) + ["--no-eos"] * (task.marks.eos is None)
    command = [sys.executable, "-m", "data_tools.prepare", *words]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    _run(command, env=environment)
    return json.loads((out / "manifest.json").read_text())["counts"]["tokens"]


def _run(command: list[str], **options: Any) -> None:
    """A tool that talks much in a process of its own; when it fails, its last lines are the cause. Raises BenchError."""
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", **options)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-3:]) or "without a word"
        raise BenchError(f"a tool ended with {done.returncode}: {said}")


def _ours_reference(task: Task) -> int:
    return _ours(task, "--reference")


def _ours_fast(task: Task) -> int:
    return _ours(task)


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
    return _worker["encode"](json.loads(line)["text"])


def _megatron(task: Task, start: Callable[[str], None], file: Path) -> int:
    """preprocess_data's way: lines → pool.imap, one document a call → one process appends to .bin and keeps the lengths."""
    import multiprocessing

    lengths = []
    pool = multiprocessing.get_context("fork").Pool(task.workers, start, (str(file),))
    with pool, open(task.out / "tokens.bin", "wb") as tokens:
        for path in task.files:
            with open(path) as lines:
                for ids in map(task.marks.put, pool.imap(_encode_line, lines, 32)):
                    tokens.write(np.array(ids, dtype=task.marks.dtype).tobytes())
                    lengths.append(len(ids))
    np.save(task.out / "lengths.npy", np.array(lengths, dtype=np.int32))
    return sum(lengths)


def _megatron_tokenizers(task: Task) -> int:
    return _megatron(task, _start_tokenizers, task.vocabulary)


def _megatron_sentencepiece(task: Task) -> int:
    return _megatron(task, _start_sentencepiece, tokenizer_file(task.tokenizer))


def _datatrove(task: Task) -> int:
    """Its own road from lines to tokens."""
    words = [str(task.files[0].parent), str(task.out), str(task.vocabulary), str(task.workers), task.marks.eos_name or ""]
    _run([sys.executable, "-c", DATATROVE, *words])
    documents = sum(path.stat().st_size for path in task.out.glob("*.index")) // 8
    width = np.dtype(task.marks.dtype).itemsize
    written = sum(path.stat().st_size for path in task.out.glob("*.ds")) // width
    return written + documents * (task.marks.bos is not None)  # it writes no BOS


DATATROVE = """
import sys
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
if __name__ == "__main__":
    folder, out, vocabulary, workers, eos = sys.argv[1:]
    steps = [JsonlReader(folder), DocumentTokenizer(out, vocabulary, eos_token=eos or None, shuffle_documents=False)]
    LocalPipelineExecutor(steps, tasks=int(workers), workers=int(workers), logging_dir=out + "/logs", start_method="fork").run()
"""


def _datasets_map(task: Task) -> int:
    """nanoGPT's way with the fast tokenizer: load, map in batches over processes, copy into a memmap."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset("json", data_files=[str(file) for file in task.files], split="train", cache_dir=str(task.out / "cache"))
    given = {"vocabulary": str(task.vocabulary), "marks": task.marks}
    encoded = data.map(_encode_batch, batched=True, num_proc=task.workers, remove_columns=data.column_names, fn_kwargs=given)
    total = int(np.sum(encoded["length"], dtype=np.int64))
    tokens, start = np.memmap(task.out / "tokens.bin", dtype=task.marks.dtype, mode="w+", shape=(total,)), 0
    for batch in encoded.with_format("numpy").iter(batch_size=4096):
        ids = np.concatenate(batch["ids"])
        tokens[start : start + len(ids)] = ids
        start += len(ids)
    tokens.flush()
    return total


def _encode_batch(rows: dict[str, list[str]], vocabulary: str, marks: Marks) -> dict[str, list[Any]]:
    if "batch" not in _worker:
        import tokenizers

        _worker["batch"] = tokenizers.Tokenizer.from_file(vocabulary)
    ids = [marks.put(encoding.ids) for encoding in _worker["batch"].encode_batch(rows["text"], add_special_tokens=False)]
    return {"ids": ids, "length": [len(list) for list in ids]}


TOOLS: dict[str, Callable[[Task], int]] = {
    "Megatron pattern, tokenizers": _megatron_tokenizers,
    "Megatron pattern, sentencepiece": _megatron_sentencepiece,
    "datatrove DocumentTokenizer": _datatrove,
    "datasets.map": _datasets_map,
    REFERENCE: _ours_reference,
    FAST: _ours_fast,
}
