"""Shards written to tmp_path, damaged in every way known to have happened to someone, and opened again."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_tools.files.atomic import sha256_file
from data_tools.shards.fingerprint import tokenizer_fingerprint
from data_tools.shards.format import ShardError, ShardFormat, manifest_checksum, sum_counts
from data_tools.shards.reader import Shards
from data_tools.shards.writer import Documents, ShardWriter, write_shard
from tests.made import processes

VOCAB = 1000
RULE = {"fingerprint": "ab" * 32, "bos_id": 1, "eos_id": 2, "add_bos": True, "add_eos": True}


def documents(count: int = 40) -> list[tuple[str, str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(f"paper-{k}", ("astro", "general")[k % 3 == 0], rng.integers(3, VOCAB, rng.integers(1, 60))) for k in range(count)]


def corpus(folder: Path, vocab_size: int = VOCAB, shard_tokens: int = 300) -> Path:
    writer = ShardWriter(folder, kind="corpus", vocab_size=vocab_size, tokenizer=RULE, shard_tokens=shard_tokens)
    for id, source, tokens in documents():
        writer.add(id, source, tokens)
    writer.finish()
    return folder


def chat(folder: Path) -> Path:
    writer = ShardWriter(folder, kind="chat", vocab_size=VOCAB, tokenizer=RULE, shard_tokens=300)
    for id, source, tokens in documents():
        writer.add(id, source, tokens, tokens % 2)
    writer.finish()
    return folder


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    shards = Shards.open(corpus(tmp_path / "shards"))
    assert len(shards) == 40 and len(shards.manifest["shards"]) > 3
    for i, (id, source, tokens) in enumerate(documents()):
        assert (shards.id(i), shards.source(i), shards.lengths[i]) == (id, source, len(tokens))
        np.testing.assert_array_equal(shards.tokens(i), tokens)
        assert shards.mask(i) is None and shards.find(id) == [i]
    assert shards.manifest["counts"]["tokens"] == sum(len(tokens) for _, _, tokens in documents())
    assert shards.manifest["counts"]["sources"]["general"]["documents"] == sum(source == "general" for _, source, _ in documents())


def test_other_programs_open_the_files_as_the_page_says(tmp_path: Path) -> None:
    import datasets
    import pandas

    files = [str(f) for f in sorted(corpus(tmp_path / "shards").glob("*.arrow"))]
    wanted = [(id, source, tokens.tolist()) for id, source, tokens in documents()]
    loaded = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert [(row["id"], row["source"], row["tokens"]) for row in loaded] == wanted
    frames = pandas.concat([pandas.read_feather(f) for f in files])
    assert [(id, source, list(tokens)) for id, source, tokens in zip(frames.id, frames.source, frames.tokens)] == wanted


def test_masks_are_read_back_and_counted(tmp_path: Path) -> None:
    shards = Shards.open(chat(tmp_path / "shards"))
    for i, (_, _, tokens) in enumerate(documents()):
        np.testing.assert_array_equal(shards.mask(i), tokens % 2)
    assert shards.has_mask and shards.manifest["counts"]["supervised_tokens"] == sum(
        int((tokens % 2).sum()) for _, _, tokens in documents()
    )
    per_source = {name: counts["supervised_tokens"] for name, counts in shards.manifest["counts"]["sources"].items()}
    assert per_source["general"] == sum(int((tokens % 2).sum()) for _, source, tokens in documents() if source == "general")


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_tokens_are_uint16_up_to_65536_entries(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    writer = ShardWriter(tmp_path / "shards", kind="corpus", vocab_size=vocab_size, tokenizer=RULE)
    writer.add("last", "s", [vocab_size - 1])
    writer.finish()
    tokens = Shards.open(tmp_path / "shards").tokens(0)
    assert tokens.dtype == dtype and tokens.tolist() == [vocab_size - 1]


def test_reading_copies_nothing(tmp_path: Path) -> None:
    tokens = Shards.open(corpus(tmp_path / "shards")).tokens(3)
    assert not tokens.flags.owndata and not tokens.flags.writeable


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    a, b = corpus(tmp_path / "a"), corpus(tmp_path / "elsewhere")
    assert {path.name: sha256_file(path) for path in a.iterdir()} == {path.name: sha256_file(path) for path in b.iterdir()}


def test_other_programs_open_a_shard(tmp_path: Path) -> None:
    table = pa.ipc.open_file(corpus(tmp_path / "shards") / "00000.arrow").read_all()
    assert table.column("tokens")[0].as_py() == documents()[0][2].tolist()
    assert table.column("id")[0].as_py() == "paper-0"


@pytest.mark.parametrize("wrong", [VOCAB, 70000, -1])
def test_an_id_outside_the_vocabulary_is_refused_when_written(tmp_path: Path, wrong: int) -> None:
    writer = ShardWriter(tmp_path / "shards", kind="corpus", vocab_size=VOCAB, tokenizer=RULE)
    writer.add("good", "s", [5])
    writer.add("bad-paper", "s", [5, wrong, 6])
    with pytest.raises(ShardError, match=f"'bad-paper' has token id {wrong}.*ends at 999"):
        writer.finish()
    assert not (tmp_path / "shards" / "manifest.json").exists()


def test_an_empty_document_is_refused_when_written(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "shards", kind="corpus", vocab_size=VOCAB, tokenizer=RULE)
    writer.add("nothing", "s", [])
    with pytest.raises(ShardError, match="'nothing' has no tokens"):
        writer.finish()


@pytest.mark.parametrize(("kind", "mask"), [("chat", None), ("corpus", [1]), ("chat", [2]), ("chat", [1, 1])])
def test_a_mask_that_does_not_fit_is_refused_when_written(tmp_path: Path, kind: str, mask: list[int] | None) -> None:
    writer = ShardWriter(tmp_path / "shards", kind=kind, vocab_size=VOCAB, tokenizer=RULE)
    with pytest.raises(ShardError, match="mask"):
        writer.add("a", "s", [5], mask)
        writer.finish()


def test_finished_shards_are_not_written_over(tmp_path: Path) -> None:
    corpus(tmp_path / "shards")
    with pytest.raises(ShardError, match="already holds finished shards"):
        corpus(tmp_path / "shards")


def test_shards_without_a_manifest_are_not_opened_and_a_new_run_clears_them(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "shards", shard_tokens=100)
    (folder / "manifest.json").rename(folder / ".manifest.json.17.tmp")
    with pytest.raises(ShardError, match="no finished shards here"):
        Shards.open(folder)
    corpus(folder, shard_tokens=500)
    shards = Shards.open(folder).manifest["shards"]
    assert sorted(path.name for path in folder.iterdir()) == [*(entry["file"] for entry in shards), "manifest.json"]


# ---- damages ----


def resign(folder: Path, change: Callable[[dict], None] = lambda manifest: None) -> None:
    """Make the manifest agree with the files as they are: what is left to find is the damage itself."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    for entry in manifest["shards"]:
        if (path := folder / entry["file"]).exists():
            entry |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    manifest["counts"] = sum_counts(manifest["shards"])
    manifest["checksum"] = manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite(path: Path, tokens: pa.Array) -> None:
    """Replace the tokens of a shard, behind the writer's back."""
    table = pa.ipc.open_file(path).read_all()
    schema = table.schema.set(0, pa.field("tokens", tokens.type))
    batch = pa.record_batch([tokens, *(table.column(name).combine_chunks() for name in table.schema.names[1:])], schema=schema)
    with pa.ipc.new_file(path.with_suffix(".new"), schema) as writer:
        writer.write_batch(batch)
    path.with_suffix(".new").replace(path)


def parts(path: Path) -> tuple[np.ndarray, np.ndarray]:
    column = pa.ipc.open_file(path).read_all().column("tokens").combine_chunks()
    return np.array(column.offsets), np.array(column.values)


def as_lists(offsets: np.ndarray, values: np.ndarray) -> pa.Array:
    return pa.ListArray.from_buffers(
        pa.list_(pa.from_numpy_dtype(values.dtype)),
        len(offsets) - 1,
        [None, pa.py_buffer(offsets.astype(np.int32).tobytes())],
        children=[pa.array(values)],
    )


def truncate(folder: Path) -> None:
    data = (folder / "00001.arrow").read_bytes()
    (folder / "00001.arrow").write_bytes(data[: len(data) // 2])


def extend(folder: Path) -> None:
    with open(folder / "00001.arrow", "ab") as file:
        file.write(b"\0" * 8)


def flip(folder: Path) -> None:
    data = bytearray((folder / "00001.arrow").read_bytes())
    data[len(data) // 3] ^= 4
    (folder / "00001.arrow").write_bytes(data)


def wrong_dtype(folder: Path) -> None:
    offsets, values = parts(folder / "00001.arrow")
    rewrite(folder / "00001.arrow", as_lists(offsets, values.astype(np.uint32)))


def wrong_tokenizer(folder: Path) -> None:
    resign(folder, lambda manifest: manifest["tokenizer"].update(fingerprint="cd" * 32))


def missing_shard(folder: Path) -> None:
    (folder / "00001.arrow").unlink()


def duplicate_shard(folder: Path) -> None:
    shutil.copy(folder / "00000.arrow", folder / "00001.arrow")


def duplicate_entry(folder: Path) -> None:
    resign(folder, lambda manifest: manifest["shards"].insert(1, manifest["shards"][0]))


def unknown_shard(folder: Path) -> None:
    shutil.copy(folder / "00000.arrow", folder / "00099.arrow")


def swapped_files(folder: Path) -> None:
    (folder / "00000.arrow").rename(folder / "kept")
    (folder / "00001.arrow").rename(folder / "00000.arrow")
    (folder / "kept").rename(folder / "00001.arrow")


def swapped_entries(folder: Path) -> None:
    resign(folder, lambda manifest: manifest["shards"].reverse())


def offset_past_end(folder: Path) -> None:
    offsets, _ = parts(folder / "00001.arrow")
    longer = np.append(offsets[:-1], offsets[-1] + 7).astype(np.int32)
    data = (folder / "00001.arrow").read_bytes()
    assert data.count(offsets.tobytes()) == 1
    (folder / "00001.arrow").write_bytes(data.replace(offsets.tobytes(), longer.tobytes()))


def offset_backwards(folder: Path) -> None:
    offsets, values = parts(folder / "00001.arrow")
    offsets[1] = offsets[2] + 1
    rewrite(folder / "00001.arrow", as_lists(offsets, values))


def empty_document(folder: Path) -> None:
    offsets, values = parts(folder / "00001.arrow")
    offsets[1] = offsets[2]
    rewrite(folder / "00001.arrow", as_lists(offsets, values))


def id_past_vocabulary(folder: Path) -> None:
    offsets, values = parts(folder / "00001.arrow")
    values[len(values) // 2] = VOCAB
    rewrite(folder / "00001.arrow", as_lists(offsets, values))


AS_IT_LIES = [truncate, extend, flip, wrong_dtype, wrong_tokenizer, missing_shard, duplicate_shard, duplicate_entry, unknown_shard]
AS_IT_LIES += [swapped_files, swapped_entries, offset_past_end, offset_backwards, empty_document, id_past_vocabulary]
WITH_ITS_HASH = {
    truncate: "not a readable Arrow file",
    wrong_dtype: "tokens: list<item: uint32>, .* instead of tokens: list<item: uint16>",
    missing_shard: "No such file",
    duplicate_shard: "two shards have one content",
    swapped_files: "another shard lies here|documents, the file holds",
    offset_past_end: "a document reaches outside",
    offset_backwards: "a document reaches outside",
    empty_document: "document 0 of the file has no tokens|document 1 of the file has no tokens",
    id_past_vocabulary: "token id 1000, the vocabulary ends at 999",
}


@pytest.mark.parametrize("damage", AS_IT_LIES, ids=lambda damage: damage.__name__)
def test_every_damage_is_found_on_opening(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = corpus(tmp_path / "shards")
    damage(folder)
    with pytest.raises(ShardError) as refused:
        Shards.open(folder, verify="hash")
    assert str(folder) in str(refused.value) and "prepare" in str(refused.value)


@pytest.mark.parametrize(("damage", "message"), WITH_ITS_HASH.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_damage_is_found_even_if_the_manifest_agrees_with_it(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = corpus(tmp_path / "shards")
    damage(folder)
    resign(folder)
    with pytest.raises(ShardError, match=message):
        Shards.open(folder, verify="hash")


def test_a_mask_of_other_length_is_found(tmp_path: Path) -> None:
    folder = chat(tmp_path / "shards")
    table = pa.ipc.open_file(folder / "00000.arrow").read_all()
    masks = table.column("mask").to_pylist()
    masks[0] = masks[0] + [1]
    table = table.set_column(1, table.schema.field(1), pa.array(masks, pa.list_(pa.uint8())))
    with pa.ipc.new_file(folder / "00000.arrow", table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])
    resign(folder)
    with pytest.raises(ShardError, match="tokens and masks differ in length"):
        Shards.open(folder)


def test_another_tokenizer_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    shards = Shards.open(corpus(tmp_path / "shards"))
    shards.require_tokenizer("ab" * 32, where="model.path")
    with pytest.raises(ShardError, match="model.path: tokenizer cdcdcdcdcdcd….*made with abababababab…"):
        shards.require_tokenizer("cd" * 32, where="model.path")


@pytest.mark.parametrize("damage", [truncate, flip, missing_shard, duplicate_shard], ids=lambda damage: damage.__name__)
def test_a_file_changed_while_open_is_found_before_it_is_read(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shards = Shards.open(corpus(tmp_path / "shards"))
    shards.check_unchanged()
    damage(shards.folder)
    with pytest.raises(ShardError, match="changed while it was open|cannot be read"):
        shards.check_unchanged()


def test_only_the_files_of_the_documents_asked_for_are_looked_at(tmp_path: Path) -> None:
    shards = Shards.open(corpus(tmp_path / "shards"))
    last = len(shards) - 1
    (shards.folder / "00000.arrow").unlink()
    shards.check_unchanged(np.array([last]))
    with pytest.raises(ShardError, match="00000.arrow: cannot be read"):
        shards.check_unchanged(np.array([0, last]))


def test_open_shards_hold_no_file_open(tmp_path: Path) -> None:
    shards = Shards.open(corpus(tmp_path / "shards"))
    held = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")]
    assert not [path for path in held if str(tmp_path) in path]
    assert shards.tokens(len(shards) - 1).size and shards.id(0)  # what was mapped stays


def test_ranks_share_the_hashing(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "shards")
    data = bytearray((folder / "00003.arrow").read_bytes())
    offsets, values = parts(folder / "00003.arrow")
    position = data.index(values.tobytes())
    data[position] ^= 1
    (folder / "00003.arrow").write_bytes(data)
    Shards.open(folder, verify="size")
    for rank in (0, 2):
        Shards.open(folder, verify="hash", part=(rank, 4))
    with pytest.raises(ShardError, match="00003.arrow: sha256"):
        Shards.open(folder, verify="hash", part=(1, 2))


def test_any_changed_byte_of_the_manifest_is_found(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "shards", shard_tokens=900)
    path = folder / "manifest.json"
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for position in rng.choice(len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(7))
        path.write_bytes(damaged)
        try:
            assert Shards.open(folder).manifest == json.loads(whole), f"byte {position}: {whole[position - 20 : position + 20]!r}"
        except ShardError:
            pass


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 2}', '{"format_version": 1, "shards": 7}', "\xff"])
def test_a_foreign_manifest_ends_in_a_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ShardError, match="manifest.json: "):
        Shards.open(tmp_path)


def test_the_fingerprint_is_of_the_manifest_and_of_the_tokenizer_file(tmp_path: Path) -> None:
    shards = Shards.open(corpus(tmp_path / "shards"))
    assert shards.fingerprint == sha256_file(tmp_path / "shards" / "manifest.json")
    with pytest.raises(ShardError, match="needs tokenizer.model or tokenizer.json"):
        tokenizer_fingerprint(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"json")
    (tmp_path / "a.model").write_bytes(b"model")
    assert tokenizer_fingerprint(tmp_path) == sha256_file(tmp_path / "a.model")
    (tmp_path / "b.model").write_bytes(b"another")
    assert tokenizer_fingerprint(tmp_path) == sha256_file(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.model").write_bytes(b"the one")
    assert tokenizer_fingerprint(tmp_path) == sha256_file(tmp_path / "tokenizer.model")


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_shard(tmp_path: Path) -> None:
    code = f"""
import resource, sys
import numpy as np
from pathlib import Path
from data_tools.shards.writer import Documents, write_shard
from data_tools.shards.format import ShardFormat
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    path, tokens = Path({str(tmp_path)!r}) / "00000.arrow", np.ones(10**5, int)
    write_shard(path, ShardFormat("corpus", 1000, "ab"), Documents(["a"], ["s"], np.array([10**5]), tokens))
except OSError as error:
    sys.exit(7)
"""
    assert processes.run([sys.executable, "-c", code], seconds=60).returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_one_shard_can_be_written_alone(tmp_path: Path) -> None:
    documents = Documents(["a", "b"], ["s", "s"], np.array([1, 2]), np.array([1, 2, 3]))
    entry = write_shard(tmp_path / "00000.arrow", ShardFormat("corpus", 10, "ab"), documents)
    assert (entry["tokens"], entry["documents"], entry["first_id"], entry["last_id"]) == (3, 2, "a", "b")
    assert entry["sha256"] == sha256_file(tmp_path / "00000.arrow")


@pytest.mark.slow
def test_shards_do_not_load_torch() -> None:
    code = "import sys, data_tools.shards.reader, data_tools.shards.writer; sys.exit('torch' in sys.modules)"
    assert processes.run([sys.executable, "-c", code], seconds=60).returncode == 0


def test_a_folder_of_split_shards_names_the_parts_that_are_meant(tmp_path):
    for side in ("heldout", "train"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "manifest.json").write_text("{}")
    with pytest.raises(ShardError, match=f"did you mean {tmp_path / 'train'}\\?"):
        Shards.open(tmp_path)
