"""The tiny base that a recipe asks for: its chat template, and the errors if it cannot be built."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import load_tokenizer
from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.tiny_base import ensure_tiny_base


ROOT = Path(__file__).parents[2]
SIZE = {"vocab_size": 420, "hidden_size": 8, "num_layers": 1, "num_heads": 2}


@pytest.fixture
def build(rows, tmp_path):
    """`build(**tiny_base)`: builds a base with these keys; returns its folder."""

    def make(name="some", **keys):
        folder = tmp_path / "base"
        flags = ["--use_cpu", "true", "--model_name_or_path", str(folder), "--tiny_base", json.dumps({**SIZE, **keys})]
        recipe, _, model = parse_recipe(ROOT / "recipes/tiny/grft.yaml", flags)
        ensure_tiny_base(recipe, model, {name: Dataset.from_list(rows.pairs(30))}, seed=0)
        return folder

    return make


def test_a_tiny_base_has_the_chat_template_that_its_recipe_names(build, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{% for message in messages %}<{{ message.content }}>{% endfor %}")
    tokenizer = load_tokenizer(str(build(chat_template=str(template))))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<hi>"


def test_a_tiny_base_has_no_chat_template_unless_its_recipe_names_one(build):
    assert load_tokenizer(str(build())).chat_template is None


def test_a_chat_template_that_is_not_there_is_named_and_nothing_is_built(build, tmp_path):
    with pytest.raises(InputError, match=r"the `chat_template` of `tiny_base` .*nowhere\.jinja cannot be read"):
        build(chat_template=str(tmp_path / "nowhere.jinja"))
    assert not (tmp_path / "base").exists()


def test_a_vocabulary_too_small_for_the_characters_of_the_texts_is_named(build):
    with pytest.raises(InputError, match=r"`vocab_size` is 262, and no tokenizer .* smaller than required_chars"):
        build(vocab_size=262)


def test_an_empty_name_of_a_chat_template_is_refused(build):
    with pytest.raises(InputError, match=r"`tiny_base\.chat_template` is ''; it must be a string"):
        build(chat_template="")


def test_a_base_that_was_built_from_other_data_is_used_and_reported(build, capsys):
    folder = build()
    before = (folder / "tokenizer.model").read_bytes()
    build()
    assert "was trained on other data" not in capsys.readouterr().out
    build(name="mine")
    told = " ".join(capsys.readouterr().out.split())
    assert "was trained on other data (some) and is used as it is" in told and f"{folder}-2" in told.replace(" ", "")
    assert (folder / "tokenizer.model").read_bytes() == before


def test_a_base_of_other_sizes_is_refused_and_stays(build):
    folder = build()
    with pytest.raises(
        InputError, match=r"was built by another run with other sizes: `hidden_size` 8 and not 16\. Delete"
    ):
        build(hidden_size=16)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 8


def test_a_base_without_a_record_is_used_as_before(build):
    folder = build()
    (folder / "tiny_base.json").unlink()
    build(name="mine", hidden_size=16)


def test_the_next_command_starts_from_the_output_that_a_flag_named():
    recipe = ROOT / "recipes/tiny/grft.yaml"
    written = parse_recipe(recipe, ["--use_cpu", "true"])[0].next_command
    moved = parse_recipe(recipe, ["--use_cpu", "true", "--output_dir", "outputs/my rm"])[0].next_command
    assert moved == f"{written} --model_name_or_path 'outputs/my rm'"


def test_a_size_that_is_written_out_at_its_default_is_the_same_size(build):
    folder = build()
    record = json.loads((folder / "tiny_base.json").read_text())
    del record["tiny_base"]["num_heads"]  # 4 by default
    (folder / "tiny_base.json").write_text(json.dumps(record))
    build(num_heads=4)
    with pytest.raises(InputError, match="`num_heads` 4 and not 2"):
        build()


def test_a_model_of_the_hub_is_not_built_as_a_tiny_llama(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--use_cpu", "true", "--model_name_or_path", "Qwen/Qwen3-0.6B-Base"]
    recipe, _, model = parse_recipe(ROOT / "recipes/tiny/grft.yaml", flags)
    with pytest.raises(
        InputError, match=r"would build a tiny Llama there\. For a model of the Hub pass --tiny_base '\{\}'"
    ):
        ensure_tiny_base(recipe, model, {"some": Dataset.from_list(rows.pairs(30))}, seed=0)
    assert not (tmp_path / "Qwen").exists()
    recipe, _, model = parse_recipe(ROOT / "recipes/tiny/grft.yaml", [*flags, "--tiny_base", "{}"])
    ensure_tiny_base(recipe, model, {"some": Dataset.from_list(rows.pairs(30))}, seed=0)
    assert not (tmp_path / "Qwen").exists()
