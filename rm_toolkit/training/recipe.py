"""Recipe arguments: one YAML, overridden by flags, and strict: an unknown name stops the run."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from transformers import HfArgumentParser, TrainingArguments
from trl import ModelConfig

from ..data.specs import parse_named_specs, parse_spec
from ..errors import InputError, class_and_line, did_you_mean
from ..output.ranges import Number, plain
from ..output.stated_ranges import say_range
from ..output.strict_json import strict_json
from ..output.strict_yaml import said, strict_yaml
from ..testing import TINY_BASE
from .best_model import check_best_metric
from .config import RewardModelConfig
from .no_effect import check_model_flags
from .recipe_file import check_values, load_yaml
from .setting_ranges import check_settings, setting_ranges


@dataclass
class RecipeArguments:
    """Settings of a recipe besides the trainer's and the model's."""

    train_datasets: dict | str | None = field(
        default=None,
        metadata={
            "help": "Named data to train on: `{name: SPEC, …}`, as JSON or NAME=SPEC … on the command line.",
            "nargs": "+",
        },
    )
    eval_datasets: dict | str | None = field(
        default=None,
        metadata={"help": "Named test sets, each evaluated separately: `{name: SPEC, …}`.", "nargs": "+"},
    )
    replay_datasets: dict | str | None = field(
        default=None,
        metadata={
            "help": "Named general preferences for `general_replay_fraction`: `{name: SPEC, …}`. Not read if that is 0.",
            "nargs": "+",
        },
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer. If not set: the one saved with the model."}
    )
    domain: str | None = field(
        default=None,
        metadata={"help": "The domain to customize for; replaces '{domain}' in names, specs and output_dir."},
    )
    tiny_base: Annotated[dict | str | None, TINY_BASE] = field(
        default=None,
        metadata={
            "help": "Build a tiny Llama and a sentencepiece tokenizer at model_name_or_path from the training texts: "
            "{vocab_size, hidden_size, num_layers, num_heads}, and for chats chat_template, a file. For trying things "
            "out without a download.",
            "nargs": "+",
        },
    )
    dataset_streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training data row by row while training, without loading it whole; needs max_steps. "
            "`streaming: true` "
            "in one of train_datasets does the same."
        },
    )
    allow_overlap: bool = field(
        default=False, metadata={"help": "Train even if prompts of a test set are in the training data."}
    )
    allow_new_head: bool = field(
        default=False,
        metadata={
            "help": "Allow customized fine-tuning from a base without a reward head: a new one is initialized from the seed."
        },
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace an earlier run in output_dir."})
    dataset_cache_dir: str | None = field(default=None, metadata={"help": "Cache folder of the datasets library."})
    cpu_threads: Annotated[int | None, Number(1, 4096, whole=True)] = field(
        default=None,
        metadata={"help": "Threads per process on a CPU. Default: the cores divided by the processes."},
    )
    next_command: str | None = field(default=None, metadata={"help": "Printed at the end: the command to run next."})


GROUPS = (RecipeArguments, RewardModelConfig, ModelConfig)
# Where upstream's help does not hold here.
OWN_HELP = {
    "resume_from_checkpoint": "`auto`: the newest intact checkpoint of `output_dir`, or a new run if it has none. Or the path of a "
    "checkpoint folder in `output_dir`.",
    "save_steps": "With `save_strategy: steps`: optimizer steps between two checkpoints.",
    "eval_steps": "With `eval_strategy: steps`: optimizer steps between two evaluations (default: `logging_steps`).",
}
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
        default_config (`str` or `Path`): The recipe used if no `--config` is given.
        argv (`Sequence[str]`, *optional*): Defaults to the command line.
        description (`str`, *optional*): For `--help`.
        groups (`Sequence[type]`): Dataclasses whose fields are the settings; by default those of reward modelling.

    Returns:
        `tuple`: An instance of each group.

    Raises:
        `InputError`: for a file that cannot be read, an unknown or duplicate key, a value of the wrong type, or an
            unknown flag.
    """
    parser, rest, path = _make_parser(default_config, argv, description, groups)
    try:
        *parsed, leftover = parser.parse_args_into_dataclasses(rest, return_remaining_strings=True)
    except InputError:
        raise
    except (ValueError, TypeError, OSError, LookupError, ArithmeticError, argparse.ArgumentError) as error:
        raise InputError(f"{path}: {class_and_line(error, 300)}") from error
    parsed = parsed[: len(groups)]
    _refuse_unknown(leftover, parser)
    recipe, training = parsed[:2]
    for group in parsed:
        if isinstance(group, ModelConfig):
            check_model_flags(group, training)
    if training.hub_token:
        raise InputError(
            "`hub_token` is in a recipe or on a command line, where others can read it. Remove it, and log in with "
            "`hf auth login` or set the environment variable HF_TOKEN."
        )
    for name in DICT_FIELDS:
        setattr(recipe, name, _as_mapping(name, getattr(recipe, name)))
    for group in parsed:
        if not isinstance(group, TrainingArguments):  # it checks itself, before upstream changes its values
            check_settings(group)
    _continue_from(recipe, training, parser)
    _fill_domain(recipe.domain, parsed)
    _refuse_unused_steps(rest, training)
    if isinstance(training, RewardModelConfig):  # the metrics follow from the names of the test sets
        check_best_metric(training, dict.fromkeys(recipe.eval_datasets))
    return tuple(parsed)


def _refuse_unused_steps(flags: Sequence[str], training: TrainingArguments) -> None:
    """Refuses a number of steps that was given as a flag and that the strategy, of the recipe or of a flag, does not use."""
    given = {word[2:].partition("=")[0].replace("-", "_") for word in flags if word.startswith("--")}
    for kind in ("save", "eval", "logging"):
        strategy = plain(getattr(training, f"{kind}_strategy"))
        # With a flag for both, as `rm-toolkit doubt` adds one, the strategy was chosen knowingly.
        if f"{kind}_steps" in given and f"{kind}_strategy" not in given and strategy != "steps":
            raise InputError(
                f"`{kind}_steps` has no effect with `{kind}_strategy: {strategy}`. Add --{kind}_strategy steps, or leave "
                f"--{kind}_steps out."
            )


def _continue_from(recipe: RecipeArguments, training: TrainingArguments, parser: HfArgumentParser) -> None:
    """Lets the recipe's next command start from this run, where a flag moved its output."""
    given = {name: parser.get_default(name) for name in ("next_command", "output_dir")}
    if not recipe.next_command or recipe.next_command != given["next_command"]:
        return
    if " recipes/" in recipe.next_command and training.output_dir != given["output_dir"]:
        recipe.next_command += f" --model_name_or_path {shlex.quote(str(training.output_dir))}"


def read_values(
    default_config: str | Path, argv: Sequence[str] | None = None, groups: Sequence[type] = GROUPS
) -> dict[str, Any]:
    """
    The values that [`parse_recipe`] reads, by name, before they are adapted to the device of this machine.

    Args:
        default_config, argv, groups: As in [`parse_recipe`].

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
    ranges = {name: rule for group in groups for name, rule in setting_ranges(group).items()}
    for action in parser._actions:
        action.help = OWN_HELP.get(action.dest, action.help)
        say_range(action, ranges.get(action.dest))
        if action.dest in values:
            action.default, action.required = values[action.dest], False
    return parser, rest, chosen.config


def _known(parser: HfArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions} - {"help", "config"}


def _refuse_unknown(leftover: Sequence[str], parser: HfArgumentParser) -> None:
    if leftover:
        flag = leftover[0].split("=")[0]
        hint = did_you_mean(flag, [f"--{name}" for name in _known(parser)])
        raise InputError(f"'{leftover[0]}' is not a flag of this recipe.{hint} `--help` lists them all.")


def _refuse_flag(message: str) -> None:
    """Replaces argparse's method, which prints all of the several hundred flags first."""
    raise InputError(f"{message.rstrip('.')}. `--help` lists every flag with its meaning, unit and range.")


def _as_mapping(name: str, value: Any) -> dict[str, Any]:
    """A mapping from YAML, one in braces (JSON or YAML), or a list of NAME=SPEC as in all commands."""
    if value is None or isinstance(value, dict):
        return dict(value or {})
    items = [value] if isinstance(value, str) else list(value)
    if len(items) == 1 and items[0].lstrip().startswith("{"):
        try:
            return dict(strict_json(items[0]))
        except ValueError:
            return dict(parse_spec(items[0], f"--{name}"))
    if name != "tiny_base":
        return parse_named_specs(items, f"--{name}")
    pairs = [item.partition("=") for item in items]
    for key, equals, rest in pairs:
        if not key or not equals or not rest:
            raise InputError(f"`{name}`: '{key}{equals}{rest}' is not NAME=VALUE. Example: --{name} hidden_size=64")
    try:
        return {key: strict_yaml(rest) for key, _, rest in pairs}
    except yaml.YAMLError as error:
        raise InputError(f"`{name}` cannot be read: {said(error)}") from error


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
