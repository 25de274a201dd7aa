"""The chat door: the answers are the model's own, the conversation is what one sees, a bad folder is one message."""

import io
import json
import os
import pty
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.chat.conversations import Turn, read_record
from data_tools.files.atomic import sha256_file
from launch import chat
from launch.talk.model import ModelError, Sampling, Talker
from tests.made import processes
from tests.made.tiny import save_tiny
from tests.made.where import ROOT

GREEDY = Sampling(max_new_tokens=12, temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def talker(folder) -> Talker:
    return Talker.load(folder)


def run(capsys, *argv: object, lines: str = "") -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the door, with `lines` piped in."""
    sys.stdin, kept = io.StringIO(lines), sys.stdin
    try:
        code = chat.main(list(map(str, argv)))
    finally:
        sys.stdin = kept
    return code, *capsys.readouterr()


def by_transformers(folder: Path, text: str, tokens: int) -> str:
    """The greedy answer, by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    made = model.generate(**ids, max_new_tokens=tokens, do_sample=False)[0, ids.input_ids.shape[1] :]
    return tokenizer.decode(made, skip_special_tokens=True).strip()


def test_prompt_prints_the_models_own_greedy_answer_and_nothing_else(folder, capsys):
    code, out, err = run(capsys, folder, "--prompt", "The star", "--temperature", 0, "--max-new-tokens", 12)
    assert (code, out) == (0, by_transformers(folder, "The star", 12) + "\n") and out.strip()
    format, cut = err.splitlines()
    assert "plain completion" in format and cut.startswith("(cut off: ")


def test_a_named_template_puts_the_conversation_as_published(folder, capsys):
    code, out, err = run(
        capsys, folder, "--template", "chatml", "--system", "Be brief.", "--prompt", "Why?", "--temperature", 0, "--max-new-tokens", 12
    )
    text = "<s><|im_start|>system\nBe brief.</s>\n<|im_start|>user\nWhy?</s>\n<|im_start|>assistant\n".replace("</s>", "<|im_end|>")
    assert (code, out.strip()) == (0, by_transformers(folder, text, 12)) and "chatml" in err


def test_the_tokenizers_own_template_is_used_when_there_is_one(folder, tmp_path, capsys):
    own = shutil.copytree(folder, tmp_path / "own")
    (own / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else '' }}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    code, out, err = run(capsys, own, "--prompt", "Why?", "--temperature", 0, "--max-new-tokens", 12)
    assert code == 0 and "chat template: the tokenizer's own" in err
    assert out.strip() == by_transformers(own, "<s>user: Why?\nassistant: ", 12)


def test_an_answer_comes_in_pieces_that_add_up_and_can_be_cut_short(talker):
    """Asked for far more than is read: the thread that writes ends with the reader."""
    turns = [Turn("user", "a")]
    pieces = list(talker.answer(turns, Sampling(max_new_tokens=100, temperature=1, seed=3)))
    assert len(pieces) > 1
    again = talker.answer(turns, Sampling(max_new_tokens=100, temperature=1, seed=3))
    assert next(again) == pieces[0]
    before = threading.active_count()
    again.close()
    assert threading.active_count() == before - 1


def test_a_seed_repeats_an_answer_and_another_seed_does_not(talker):
    said = ["".join(talker.answer([Turn("user", "a")], Sampling(20, 1.0, seed))) for seed in (5, 5, 6)]
    assert said[0] == said[1] != said[2]


def test_a_failure_while_writing_reaches_the_reader(folder):
    talker = Talker.load(folder)
    broken = Talker(talker.name, talker._model, talker._tokenizer, None, "")
    broken.prompt = lambda turns: [10**6]  # an id that no embedding has
    with pytest.raises(IndexError):
        list(broken.answer([Turn("user", "a")], GREEDY))


def test_a_conversation_remembers_resets_and_is_saved_as_prepare_chat_reads_it(folder, tmp_path, capsys):
    lines = f"The star\nAnd then\n/save {tmp_path}/two.jsonl\n/system Be brief.\nWhy\n/save {tmp_path}/one.jsonl\n/reset\n"
    lines += f"/save {tmp_path}/no.jsonl\n/quit\nNever asked\n"
    code, out, err = run(capsys, folder, "--template", "chatml", "--temperature", 0, "--max-new-tokens", 12, lines=lines)
    assert code == 0 and len(out.splitlines()) >= 3
    two, one = (json.loads((tmp_path / name).read_text()) for name in ("two.jsonl", "one.jsonl"))
    assert [turn["role"] for turn in two["messages"]] == ["user", "assistant"] * 2
    assert [turn["content"] for turn in one["messages"]][:2] == ["Be brief.", "Why"]
    for row in (one, two):
        (read,) = read_record(row)
        assert [(turn.role, turn.text) for turn in read.turns] == [(m["role"], m["content"]) for m in row["messages"]]
    assert "nothing to save yet" in err and not (tmp_path / "no.jsonl").exists() and "Never asked" not in out
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in two["messages"][:3])
    first = turns.replace(two["messages"][1]["content"] + "<|im_end|>", two["messages"][1]["content"] + "</s>")
    assert two["messages"][3]["content"] == by_transformers(folder, f"<s>{first}<|im_start|>assistant\n", 12)


def test_a_file_that_was_there_before_is_not_written_over(folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = run(capsys, folder, "--max-new-tokens", 3, "--seed", 1, lines=f"a b c\n/save {tmp_path}/mine.txt\n/save\n/nonsense\n")
    assert code == 0 and "stays as it is" in err and "save where?" in err and "/nonsense: no such command" in err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_conversation_longer_than_the_context_loses_its_oldest_messages_and_says_so(folder, capsys):
    lines = "".join(f"Question {i} {'x' * 60}\n" for i in range(5))
    code, _, err = run(capsys, folder, "--template", "chatml", "--max-new-tokens", 20, "--seed", 1, lines=lines)
    assert code == 0 and "it no longer sees the first 2 messages" in err


def test_a_text_longer_than_the_context_is_refused_with_the_numbers(folder, capsys):
    code, out, err = run(capsys, folder, "--prompt", "x" * 300, "--max-new-tokens", 20)
    assert (code, out) == (1, "") and "300 tokens of text and 20 of answer are more than the model's 256" in err


def _manifest(folder: Path) -> None:
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def _drop_tensor(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN = {
    "no such folder": lambda folder: shutil.rmtree(folder),
    "no config.json in it; a model folder": lambda folder: (folder / "config.json").unlink(),
    "did you mean": lambda folder: (
        shutil.copytree(folder, folder / "checkpoints" / "step_000500"),
        (folder / "config.json").unlink(),
    ),
    "no *.safetensors weights in it; copy them": lambda folder: (folder / "model.safetensors").unlink(),
    "only pytorch_model.bin, a pickle": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    "transformers cannot load it (SafetensorError": lambda folder: os.truncate(folder / "model.safetensors", 5000),
    "weights are missing or of another shape: model.layers.1.mlp.up_proj.weight": _drop_tensor,
    "transformers cannot load it (": lambda folder: (folder / "config.json").write_text("{"),
    "cannot load it (ValueError": lambda folder: (folder / "config.json").write_text('{"model_type": "unheard_of"}'),
    "transformers cannot load it": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "its content changed since it was saved": lambda folder: (_manifest(folder), _flip(folder / "model.safetensors")),
    "5000 bytes": lambda folder: (_manifest(folder), os.truncate(folder / "model.safetensors", 5000)),
    "manifest.json: not readable": lambda folder: (folder / "manifest.json").write_text("{}"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_one_message_that_names_it(folder, tmp_path, capsys, message):
    broken = shutil.copytree(folder, tmp_path / "broken")
    BROKEN[message](broken)
    code, out, err = run(capsys, broken, "--prompt", "a")
    assert (code, out) == (1, "") and message in err and str(broken) in err and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("chat:")]) == 1


def test_an_unchanged_checkpoint_with_a_manifest_is_used(folder, tmp_path, capsys):
    whole = shutil.copytree(folder, tmp_path / "whole")
    _manifest(whole)
    assert run(capsys, whole, "--prompt", "a", "--max-new-tokens", 2)[0] == 0


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_code_in_a_folder_is_never_run(folder, tmp_path, capsys, what):
    foreign, canary = shutil.copytree(folder, tmp_path / "foreign"), tmp_path / "canary"
    (foreign / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    name = "config.json" if what == "model" else "tokenizer_config.json"
    config = json.loads((foreign / name).read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    config |= {"model_type": "evil"} if what == "model" else {"tokenizer_class": "Evil"}
    (foreign / name).write_text(json.dumps(config))
    run(capsys, foreign, "--prompt", "a", "--max-new-tokens", 2, lines="y\n" * 5)
    assert not canary.exists()


@pytest.mark.parametrize(
    "argv", [["m", "--compare", "n"], ["m", "--max-new-tokens", "0"], ["m", "--web", "--prompt", "a"], ["m", "--temperature", "-1"]]
)
def test_a_wrong_call_is_usage(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        chat.main(argv)
    assert stop.value.code == 2


@pytest.mark.slow
def test_on_a_terminal_an_answer_is_cut_short_by_ctrl_c_and_the_conversation_goes_on(folder, tmp_path):
    """The door as a script, from another folder, on a pseudo-terminal."""
    endless = save_tiny(tmp_path / "long", max_position_embeddings=100_000, eos_token_id=None)
    (endless / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    command = [sys.executable, str(ROOT / "launch" / "chat.py"), "long", "--max-new-tokens", "90000", "--seed", "1", "--temperature", "1"]
    main, side = pty.openpty()
    process = processes.start(command, cwd=tmp_path, stdin=side, stdout=side, stderr=side)
    os.close(side)
    seen = bytearray()

    def read_while(wanted: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while wanted() and time.monotonic() < end:
            if select.select([main], [], [], 1)[0]:
                seen.extend(os.read(main, 4096))

    def until(text: bytes, after: int = 0) -> int:
        read_while(lambda: seen.find(text, after) < 0)
        assert seen.find(text, after) >= 0, seen.decode(errors="replace")
        return seen.find(text, after) + len(text)

    try:
        at = until(b">>> ", until(b"plain completion"))
        os.write(main, b"The star\n")
        read_while(lambda: len(seen) < at + 200)  # it streams: pieces are here long before the 90,000 tokens are
        os.kill(process.pid, signal.SIGINT)
        at = until(b">>> ", until(b"(cut short)"))
        os.write(main, b"/save kept.jsonl\n")
        until(b"saved 2 messages", at)
        os.write(main, b"/quit\n")
        assert process.wait(30) == 0
    finally:
        processes.end(process)
        os.close(main)
    assert len(json.loads((tmp_path / "kept.jsonl").read_text())["messages"]) == 2


def test_model_error_is_a_users_error():
    assert issubclass(ModelError, ValueError)


def test_an_answer_tells_whether_its_length_or_the_model_ended_it(folder):
    import torch

    talker = Talker.load(folder)

    def ended(tokens: int) -> str | None:
        answer = talker.answer([Turn("user", "The star")], Sampling(tokens, 0.0))
        while True:
            try:
                next(answer)
            except StopIteration as end:
                return end.value

    ids = talker._model.generate(torch.tensor([talker.prompt([Turn("user", "The star")])]), max_new_tokens=6, do_sample=False)[
        0, -6:
    ].tolist()
    assert ended(6) == "length"
    talker._model.generation_config.eos_token_id = ids[5]
    where = ids.index(ids[5]) + 1
    assert ended(6) is None and ended(where) is None and (where == 1 or ended(where - 1) == "length")
