"""Values of a recipe stay what was written, whatever YAML would guess; what cannot be told apart is refused."""

import json
from pathlib import Path

import pytest

from train.recipe.load import load
from train.recipe.vocabulary import RecipeError

GOOD = "name: {name}\nsteps: 10\ntokens_per_step: 128\nmodel: {{path: m}}\ndata: {{sources: {{{source}: {{path: s}}}}, seq_len: 64}}\n"
GUESSED = "007 0x1F 0o17 1e5 1_000 2026-11-26 1.0 5e3 no yes on off true False NULL y Infinity".split()


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def recipe(tmp_path: Path, more: str = "", name: str = "x", source: str = "a", words: tuple[str, ...] = ()):
    return load(written(tmp_path, GOOD.format(name=name, source=source) + more), words)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(RecipeError) as error:
        recipe(*args, **kwargs)
    return str(error.value)


@pytest.mark.parametrize("text", [t for t in GUESSED if t != "NULL"])
def test_a_text_is_taken_as_written_in_the_file_and_behind_a_word(tmp_path, text):
    assert recipe(tmp_path, name=text).name == text
    assert recipe(tmp_path, name=f'"{text}"').name == text
    assert recipe(tmp_path, words=(f"name={text}",)).name == text
    assert recipe(tmp_path, more=f"heldout: {{prompts: [{text}]}}\n").heldout.prompts == (text,)
    assert recipe(tmp_path, words=(f"heldout.prompts=[{text}, b]",)).heldout.prompts == (text, "b")
    assert recipe(tmp_path, words=(f"model.path={text}",)).model.path == text


@pytest.mark.parametrize("text", [*GUESSED, "12:30:00"])
def test_a_sources_name_is_taken_as_written(tmp_path, text):
    assert list(recipe(tmp_path, source=text).data.sources) == [text]
    if "." not in text:  # a dot parts keys
        assert list(recipe(tmp_path, words=(f"data.sources.{text}.path=t",)).data.sources) == ["a", text]


@pytest.mark.parametrize("text", ["run #2", "12:30:00", "a: b", "- a", "{a", "a]", "*star", "&x", "!tag", "%", "@", "`", "it's"])
def test_what_stands_behind_a_word_is_taken_whole_but_for_quotes_around_it(tmp_path, text):
    assert recipe(tmp_path, words=(f"model.path={text}",)).model.path == text
    assert recipe(tmp_path, words=(f'model.path="{text}"',)).model.path == text


NUMBERS = {"1e6": 1_000_000, "1_000": 1000, "010": 10, "0x10": 16, "+5": 5, "5.0": 5, "123456789012345678901": 123456789012345678901}


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_what_people_mean_by_them(tmp_path, text):
    assert recipe(tmp_path, more=f"seed: {text}\n").seed == NUMBERS[text] == recipe(tmp_path, words=(f"seed={text}",)).seed


@pytest.mark.parametrize("text", ["12:30", "1:30:00", "yes", "2026-11-26", "1.5", "nan", ".inf", "~", "1 000", "0x", "", "[1]"])
def test_what_is_no_whole_number_is_refused_with_what_was_written(tmp_path, text):
    for said in (refusal(tmp_path, more=f"seed: {text}\n"), refusal(tmp_path, words=(f"seed={text}",))):
        assert "seed=" in said and "a whole number is wanted here" in said and text in said


@pytest.mark.parametrize("text, value", [("true", True), ("False", False), ("yes", True), ("NO", False), ("on", True), ("off", False)])
def test_truth_values_are_yamls(tmp_path, text, value):
    assert recipe(tmp_path, more=f"logging: {{tensorboard: {text}}}\n").logging.tensorboard is value
    assert recipe(tmp_path, words=(f"model.compile={text}",)).model.compile is value
    assert "true or false is wanted" in refusal(tmp_path, words=("model.compile=1",))


@pytest.mark.parametrize("more, key", [
    ("name: y\n", "name"),
    ("data: {sources: {b: {path: t}}}\n", "data"),
    ("optim: {lr: 1e-5, lr: 2e-5}\n", "optim.lr"),
    ("optim:\n  lr: 1e-5\n  betas: [0.9, 0.95]\n  'lr': 1e-5\n", "optim.lr"),
    ("heldout: {sources: {a: {path: s}, a: {path: t}}}\n", "heldout.sources.a"),
    ("heldout: {sources: {a: {path: s, path: s}}}\n", "heldout.sources.a.path"),
])  # fmt: skip
def test_a_key_written_twice_is_a_fault_with_both_lines(tmp_path, more, key):
    said = refusal(tmp_path, more)
    assert f"{key} (r.yaml lines " in said and "written twice; keep one" in said


def test_a_word_given_twice_is_a_fault_unless_it_says_the_same(tmp_path):
    assert "seed=1 and seed=2: given twice" in refusal(tmp_path, words=("seed=1", "seed=2"))
    assert recipe(tmp_path, words=("seed=1", "seed=1")).seed == 1


def test_merged_sections_take_what_they_do_not_say_themselves(tmp_path):
    more = "optim: &o {lr: 1e-5, clip: 0.5}\nschedule: {<<: {kind: wsd, decay_ratio: 0.3}, decay_ratio: 0.2}\n"
    found = recipe(tmp_path, more)
    assert (found.schedule.kind, found.schedule.decay_ratio, found.optim.clip) == ("wsd", 0.2, 0.5)


def test_home_is_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ("model.path=~/m", "data.sources.a.path=~/s", "heldout.sources.h.path=~/h", "runs=~/runs", "deepspeed=~/d.json")
    r = recipe(tmp_path, words=words)
    found = (r.model.path, r.data.sources["a"].path, r.heldout.sources["h"].path, r.runs, r.deepspeed)
    assert [str(f) for f in found] == [str(tmp_path / n) for n in ("m", "s", "h", "runs", "d.json")]
    assert recipe(tmp_path, more="runs: ~/r\n").runs == tmp_path / "r"
    assert recipe(tmp_path, words=("model.path=a~b",)).model.path == "a~b"
    assert "there is no such home folder" in refusal(tmp_path, words=("runs=~nobody-of-this-name/x",))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_may_be_in_any_encoding_that_says_what_it_is(tmp_path, encoding):
    text = "# Université\n" + GOOD.format(name="x", source="ü")
    assert list(load(written(tmp_path, text.encode(encoding))).data.sources) == ["ü"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1251", "utf-16-le", "utf-32"])
def test_a_recipe_in_another_encoding_is_refused_by_its_line(tmp_path, encoding):
    text = GOOD.format(name="x", source="a") + ("# Université\n" if encoding == "latin-1" else "# Москва\n")
    with pytest.raises(RecipeError) as error:
        load(written(tmp_path, text.encode(encoding)))
    assert "save the file as UTF-8" in str(error.value) or "not YAML" in str(error.value) or "no mapping" in str(error.value)


@pytest.mark.parametrize("text, said", [
    ("a: &a {b: *a}\n", "stands inside itself"),
    ("name: !!python/object/apply:os.system [touch /tmp/never]\n", "tags are not used in recipes"),
    ("? [a, b]\n: c\n", "a key must be a plain name"),
    ("[" * 5000, "too deeply"),
    ("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 9)), "more than 100,000 values"),
    ("name: \x01\n", "not YAML"),
])  # fmt: skip
def test_a_hostile_recipe_ends_in_one_message(tmp_path, text, said):
    with pytest.raises(RecipeError) as error:
        load(written(tmp_path, text))
    assert said in str(error.value)


def test_a_section_given_in_a_word_can_be_changed_by_the_next(tmp_path):
    r = recipe(tmp_path, words=("heldout.sources={a: {path: s}, b: {path: t}}", "heldout.sources.b.path=u"))
    assert json.loads(json.dumps({k: str(s.path) for k, s in r.heldout.sources.items()})) == {"a": "s", "b": "u"}
    assert recipe(tmp_path, more="optim:\n", words=("optim.lr=1e-4",)).optim.lr == 1e-4
