"""Every wrong value of every setting and option gives one short error; cases are derived from fields and parsers."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from pathlib import Path

import pytest

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.output.ranges import Number
from rm_toolkit.output.strict_json import strict_json
from rm_toolkit.output.strict_yaml import strict_yaml
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.recipe_file import check_values, load_yaml


# Among the settings are those of collecting, whose modules need the client.
pytest.importorskip("openai", reason="the settings of collecting need the extra `collect`")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
wrong, files = importlib.import_module("mistaken_values"), importlib.import_module("mistaken_files")
sys.path.pop(0)

RECIPE_CLASSES = sorted(
    {group for groups in wrong.RECIPES.values() for group in groups}, key=lambda kind: kind.__name__
)
PARSERS = wrong.parsers()


@pytest.mark.parametrize("settings", [*RECIPE_CLASSES, *wrong.OTHERS], ids=lambda kind: kind.__name__)
def test_every_field_says_what_it_may_be(settings):
    assert wrong.without_range(settings) == []


@pytest.mark.parametrize("command", PARSERS)
def test_every_option_says_what_it_may_be(command):
    silent = [action.dest for action, rule in wrong.options_of(PARSERS[command]) if rule is None]
    assert silent == []


def test_a_new_field_without_a_range_is_seen():
    import dataclasses

    @dataclasses.dataclass
    class Later(RewardModelConfig):
        new_coef: float = 0.5

    ranges = wrong.setting_ranges(Later)
    assert [name for name, rule in ranges.items() if rule is None and name not in wrong.FREE] == ["new_coef"]


@pytest.mark.parametrize("settings", RECIPE_CLASSES, ids=lambda kind: kind.__name__)
def test_no_wrong_value_of_a_recipe_is_taken(settings):
    tried, taken = 0, []
    for name, rule in wrong.settings_of(settings).items():
        for kind, value in wrong.wrong_values(rule) if rule is not None else ():
            tried += 1
            try:
                check_values({name: value}, {name}, "recipe.yaml", [settings])
                taken.append((name, kind, value))
            except InputError as error:
                message = str(error)
                assert message.startswith("recipe.yaml: ") and f"`{name}" in message, message
                assert len(message) < 500 and "\n" not in message, message
    assert taken == [] and tried > 20


def test_no_wrong_number_is_taken_from_python(tmp_path):
    taken = []
    for name, rule in wrong.settings_of(RewardModelConfig).items():
        rule = getattr(rule, "of", rule)
        for kind, value in wrong.wrong_values(rule) if isinstance(rule, Number) else ():
            if value is None:
                continue
            try:
                RewardModelConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})
                taken.append((name, kind, value))
            except InputError as error:
                assert f"`{name}`" in str(error)
    assert taken == []


@pytest.mark.parametrize("command", PARSERS)
def test_no_wrong_word_of_a_command_is_taken(command):
    parser, taken = PARSERS[command], []
    for action, rule in wrong.options_of(parser):
        for kind, word in wrong.wrong_words(rule):
            flag = [action.option_strings[0]] if action.option_strings else []
            try:
                parser.parse_known_args([*flag, word])
                taken.append((action.dest, kind, word))
            except InputError as error:
                assert str(error).startswith("argument ") and "\n" not in str(error), str(error)
                assert len(str(error)) < 500
    assert taken == []


@pytest.mark.parametrize("shape", ["text", "chat"])
def test_no_mistaken_file_is_built(tmp_path, capsys, shape):
    held = {}
    for name, path in files.mistaken_data(tmp_path, deep=100_000).items():
        output = tmp_path / "out"
        code = main(["build-data", "auto", "--input", str(path), "--output", str(output), "--format", shape])
        said = capsys.readouterr().err.strip().split("\r")[-1].split("s]", 1)[-1].strip()  # after a progress bar
        held[name] = code == 2 and path.name[:20] in said and "\n" not in said and len(said) < 700
        assert held[name] and not output.exists(), (name, code, said)
    assert len(held) > 40


def test_no_mistaken_yaml_is_read(tmp_path):
    for name, path in files.mistaken_yaml(tmp_path, deep=2_000).items():
        with pytest.raises(InputError) as raised:
            values = load_yaml(path)
            check_values(values, {"seed", "output_dir"}, path, RECIPE_CLASSES)
        said = str(raised.value)
        assert path.name[:20] in said and "\n" not in said and len(said) < 700, name


def test_what_is_nested_less_is_read():
    nested = functools.reduce(lambda inner, _: [inner], range(90), 1)
    assert strict_json(json.dumps(nested)) == nested and strict_yaml(json.dumps(nested)) == nested
    assert strict_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: 3}}") == {"a": [1, 2], "b": [1, 2], "c": {"d": 3}}
    with pytest.raises(json.JSONDecodeError, match="nested deeper than 100 levels"):
        strict_json(json.dumps([nested] * 3).replace("1", "[[[[[[[[[[1]]]]]]]]]]"))


@pytest.mark.parametrize(
    "rule, text",
    [
        (Number(0, 1), "a number from 0 to 1"),
        (Number(1, 4096, whole=True), "a whole number from 1 to 4,096"),
        (Number(0, 1, above=True), "a number above 0 and at most 1"),
        (Number(0, 1, below=True, unit="pairs"), "a number of pairs from 0 and below 1"),
        (Number(1, 9, whole=True, also=(-1, "auto")), "a whole number from 1 to 9, or -1, or 'auto'"),
    ],
)
def test_a_range_is_said_in_words(rule, text):
    assert rule.text == text


def test_what_is_within_a_range_is_taken():
    assert all(Number(0, 1).holds(value) for value in (0, 1, 0.5))
    assert all(Number(1, 9, share=False, whole=True, also=(-1,)).holds(value) for value in (1, 9, -1))
    assert all(Number(0, 99, above=True, share=True).holds(value) for value in (0.5, 1, 1.0, 99))
    assert Number(0, 1e6)("1e3") == 1000 and Number(1, 9, whole=True)("7") == 7
