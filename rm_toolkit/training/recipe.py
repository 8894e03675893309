"""Recipe arguments: one YAML, overridden by flags, and strict: a name that is not known stops the run."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from trl import ModelConfig

from ..data.specs import parse_named_specs, parse_spec
from ..errors import InputError, did_you_mean
from ..output.strict_yaml import StrictLoader
from .config import RewardModelConfig


@dataclass
class RecipeArguments:
    """What a recipe needs beside the trainer's and the model's arguments."""

    train_datasets: dict | str | None = field(
        default=None,
        metadata={
            "help": "Named data to train on: `{name: SPEC, …}`, as JSON or NAME=SPEC … on the command line.",
            "nargs": "+",
        },
    )
    eval_datasets: dict | str | None = field(
        default=None,
        metadata={"help": "Named test sets, each evaluated by itself: `{name: SPEC, …}`.", "nargs": "+"},
    )
    replay_datasets: dict | str | None = field(
        default=None,
        metadata={
            "help": "Named general preferences for `general_replay_fraction`: `{name: SPEC, …}`. Not read if that is 0.",
            "nargs": "+",
        },
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer, where it does not stand with the model."}
    )
    domain: str | None = field(
        default=None,
        metadata={"help": "The domain to customize for; stands for '{domain}' in names, specs and output_dir."},
    )
    tiny_base: dict | str | None = field(
        default=None,
        metadata={
            "help": "Build a tiny Llama and a sentencepiece tokenizer at model_name_or_path from the training texts: "
            "{vocab_size, hidden_size, num_layers, num_heads}. For trying things out without a download.",
            "nargs": "+",
        },
    )
    dataset_streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training data row by row while training, never whole; needs max_steps. `streaming: true` "
            "in one of train_datasets says the same."
        },
    )
    allow_overlap: bool = field(
        default=False, metadata={"help": "Go on although prompts of a test set are also trained on."}
    )
    allow_new_head: bool = field(
        default=False,
        metadata={
            "help": "Customized fine-tuning from a base without a reward head: a new one is drawn from the seed."
        },
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace an earlier run in output_dir."})
    dataset_cache_dir: str | None = field(default=None, metadata={"help": "Cache folder of the datasets library."})
    cpu_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of each process on a CPU. Default: the cores, shared by the processes."},
    )
    next_command: str | None = field(default=None, metadata={"help": "Printed at the end: what to run next."})


GROUPS = (RecipeArguments, RewardModelConfig, ModelConfig)
DICT_FIELDS = ("train_datasets", "eval_datasets", "replay_datasets", "tiny_base")


def parse_recipe(
    default_config: str | Path,
    argv: Sequence[str] | None = None,
    description: str | None = None,
    groups: Sequence[type] = GROUPS,
) -> tuple[Any, ...]:
    """
    Reads `--config FILE.yaml` (or the default) and the flags that override it.

    Args:
        default_config (`str` or `Path`): The recipe taken where no `--config` is given.
        argv (`Sequence[str]`, *optional*): Defaults to the command line.
        description (`str`, *optional*): For `--help`.
        groups (`Sequence[type]`): Dataclasses whose fields are the settings; by default those of reward modelling.

    Returns:
        `tuple`: An instance of each group.

    Raises:
        `InputError`: for a file that cannot be read, an unknown or doubled key, a value of the wrong type, or a flag
            that does not exist.
    """
    parser, rest, path = _make_parser(default_config, argv, description, groups)
    try:
        *parsed, leftover = parser.parse_args_into_dataclasses(rest, return_remaining_strings=True)
    except (ValueError, TypeError, argparse.ArgumentError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: {error}") from error
    parsed = parsed[: len(groups)]
    _refuse_unknown(leftover, parser)
    recipe, training = parsed[:2]
    if training.hub_token:
        raise InputError(
            "`hub_token` stands in a recipe or on a command line, where others can read it. Take it out, and log in with "
            "`hf auth login` or set the environment variable HF_TOKEN."
        )
    for name in DICT_FIELDS:
        setattr(recipe, name, _as_mapping(name, getattr(recipe, name)))
    _fill_domain(recipe.domain, parsed)
    return tuple(parsed)


def read_values(
    default_config: str | Path, argv: Sequence[str] | None = None, groups: Sequence[type] = GROUPS
) -> dict[str, Any]:
    """
    What [`parse_recipe`] reads, by name, before it is fitted to the device that is found here.

    Args:
        default_config, argv, groups: As of [`parse_recipe`].

    Raises:
        `InputError`: as [`parse_recipe`] does for the file and the flags.
    """
    parser, rest, path = _make_parser(default_config, argv, None, groups)
    try:
        found, leftover = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise InputError(f"{path}: {error}") from error
    _refuse_unknown(leftover, parser)
    return vars(found)


def _make_parser(
    default_config: str | Path, argv: Sequence[str] | None, description: str | None, groups: Sequence[type]
) -> tuple[HfArgumentParser, list[str], str]:
    """The parser with the recipe's values as defaults, the flags that are left for it, and the recipe's path."""
    argv = list(sys.argv[1:] if argv is None else argv)
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.error = _refuse_flag
    before.add_argument("--config", default=str(default_config))
    chosen, rest = before.parse_known_args(argv)
    values = load_yaml(chosen.config)
    parser = HfArgumentParser(groups, description=description, allow_abbrev=False)
    parser.add_argument(
        "--config", default=str(default_config), help="The recipe: a YAML file with any of these names."
    )
    parser.error = _refuse_flag
    check_values(values, _known(parser), chosen.config, groups)
    for action in parser._actions:
        if action.dest in values:
            action.default, action.required = values[action.dest], False
    return parser, rest, chosen.config


def _known(parser: HfArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions} - {"help", "config"}


def _refuse_unknown(leftover: Sequence[str], parser: HfArgumentParser) -> None:
    if leftover:
        flag = leftover[0].split("=")[0]
        hint = did_you_mean(flag, [f"--{name}" for name in _known(parser)])
        raise InputError(f"'{leftover[0]}' is no flag of this recipe.{hint} `--help` lists them all.")


def _refuse_flag(message: str) -> None:
    """In place of argparse's own, which prints all of the several hundred flags first."""
    raise InputError(f"{message}. `--help` lists every flag with its meaning, unit and range.")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """
    Reads a recipe.

    Raises:
        `InputError`: if the file is not there, is no YAML mapping, or names a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the recipe {path} cannot be read: {error.strerror}. Give a YAML file with --config."
        ) from error
    try:
        values = yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__} instead of `name: value` lines.")
    return values


def check_values(values: dict[str, Any], known: set[str], path: str | Path, groups: Sequence[type] = GROUPS) -> None:
    """
    Checks the names and the types of a recipe's values; numbers that YAML reads as text (1e-6) are mended in place.

    Raises:
        `InputError`: naming file, key and value.
    """
    hints = {}
    for group in groups:
        hints.update(typing.get_type_hints(group))
    for key, value in values.items():
        if key not in known:
            raise InputError(
                f"{path}: there is no setting `{key}`.{did_you_mean(key, known)} `--help` lists them all."
            )
        values[key] = _converted(key, value, hints.get(key, Any), path)


def _converted(key: str, value: Any, hint: Any, path: str | Path) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    allowed = tuple(option for option in (typing.get_origin(o) or o for o in options) if isinstance(option, type))
    if value is None or not allowed or hint is Any:
        return value
    if isinstance(value, datetime.date) and str in allowed:  # as YAML reads 2026-11-27
        return value.isoformat()
    if float in allowed and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return value
    wrong_bool = isinstance(value, bool) and bool not in allowed
    # str in a hint is often an enum's or a JSON form's other way in; a number or a list is never meant by it.
    if wrong_bool or not isinstance(value, allowed):
        if isinstance(value, str) and not set(allowed) & {int, float, bool, list, dict}:
            return value
        wanted = " or ".join(sorted(option.__name__ for option in allowed if option is not type(None)))
        raise InputError(
            f"{path}: `{key}` is {json.dumps(value, default=str)} ({type(value).__name__}), but must be {wanted}."
        )
    return value


def _as_mapping(name: str, value: Any) -> dict[str, Any]:
    """A dict from YAML, one in braces (JSON or YAML), or a list of NAME=SPEC as all commands read them."""
    if value is None or isinstance(value, dict):
        return dict(value or {})
    items = [value] if isinstance(value, str) else list(value)
    if len(items) == 1 and items[0].lstrip().startswith("{"):
        try:
            return dict(json.loads(items[0]))
        except ValueError:
            return dict(parse_spec(items[0], f"--{name}"))
    if name != "tiny_base":
        return parse_named_specs(items, f"--{name}")
    pairs = [item.partition("=") for item in items]
    for key, equals, rest in pairs:
        if not key or not equals or not rest:
            raise InputError(f"`{name}`: '{key}{equals}{rest}' is not NAME=VALUE. Example: --{name} hidden_size=64")
    return {key: yaml.safe_load(rest) for key, _, rest in pairs}


def _fill_domain(domain: str | None, groups: Sequence[Any]) -> None:
    def fill(value: Any) -> Any:
        if isinstance(value, str) and "{domain}" in value:
            if domain is None:
                raise InputError(f"'{value}' needs a domain: pass --domain NAME, such as --domain literature.")
            return value.replace("{domain}", domain)
        if isinstance(value, dict):
            return {fill(key): fill(item) for key, item in value.items()}
        return value

    for group in groups:
        for item in dataclasses.fields(group):
            setattr(group, item.name, fill(getattr(group, item.name)))
