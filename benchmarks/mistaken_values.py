"""
Wrong values, derived from the stated ranges of settings and options. They follow from the bounds by arithmetic. No
range is asked whether it accepts a value, so a check that accepts everything is found out.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import typing
from collections.abc import Iterator
from typing import Any

from rm_toolkit.cli import COMMANDS
from rm_toolkit.cli.options import Parser
from rm_toolkit.collection.endpoint import Sampling
from rm_toolkit.collection.filters import FilterOptions
from rm_toolkit.data.build import BuildOptions
from rm_toolkit.data.specs import DatasetSpec
from rm_toolkit.output.nested_ranges import Keys, ListOf, Optional
from rm_toolkit.output.ranges import Choice, Flag, Number, Range, Text
from rm_toolkit.output.stated_ranges import ranges_of
from rm_toolkit.scoring.rows import ScoreOptions
from rm_toolkit.study.grid import StageGrid, StudyConfig
from rm_toolkit.training.recipe import GROUPS
from rm_toolkit.training.setting_ranges import setting_ranges
from rm_toolkit.training.sft import BaseLmArguments, BaseLmConfig


RECIPES = {"grft and crft": GROUPS, "sft": (BaseLmArguments, BaseLmConfig, GROUPS[2])}
OTHERS = (StudyConfig, StageGrid, DatasetSpec, BuildOptions, FilterOptions, Sampling, ScoreOptions)
# Fields without a range whose type does not say enough either: free text or None or False, and Python objects.
FREE = {"debug", "fsdp", "trackio_static_space_id", "parallelism_config", "optim_target_modules"}

NAN, INFINITE = float("nan"), float("inf")
HUGE = 10**40


def wrong_values(rule: Range) -> Iterator[tuple[str, Any]]:
    """
    Yields wrong values of a setting as (kind, value).

    Args:
        rule (`Range`): Range of the setting.
    """
    if isinstance(rule, Optional):
        yield from (case for case in wrong_values(rule.of) if case[0] != "null")
        return
    yield "null", None
    if isinstance(rule, Number):
        yield from _wrong_numbers(rule)
    elif isinstance(rule, Flag):
        yield from [("string", "maybe"), ("number", 3), ("fraction", 0.5), ("list", [True]), ("mapping", {"a": True})]
    elif isinstance(rule, Choice):
        yield from [("unknown choice", "banana"), ("list", ["banana"]), ("mapping", {"a": 1}), ("number", -7)]
    elif isinstance(rule, Text):
        yield from [("list", ["a", 3]), ("mapping", {"a": 1}), ("number", 3.5), ("truth value", True)]
        yield from [("surrogate", "a\ud800b"), ("NUL", "a\0b")]
        if not rule.empty:
            yield from [("empty", ""), ("blanks", "  ")]
    elif isinstance(rule, ListOf):
        yield from [("string", "banana"), ("mapping", {"a": 1}), ("number", 3)]
        yield from ((kind, [value]) for kind, value in wrong_values(rule.of))
        if rule.least:
            yield "empty", []
    elif isinstance(rule, Keys):
        yield from [("list", [1]), ("number", 3), ("truth value", True), ("number as key", {3: 1})]
        for key, inner in (rule.known or {}).items():
            yield "misspelt key", {key[:-1] + "zz": 1}
            for kind, value in wrong_values(inner) if inner is not None else ():
                yield kind, {key: value}


def _wrong_numbers(rule: Number) -> Iterator[tuple[str, Any]]:
    yield from [
        ("NaN", NAN),
        ("infinite", INFINITE),
        ("infinite", -INFINITE),
        ("huge", 1e308),
        ("huge", HUGE),
        ("huge", -HUGE),
    ]
    yield from [("truth value", True), ("string", "banana"), ("list", [1]), ("mapping", {"a": 1}), ("empty", "")]
    beyond = [("below", rule.low - 1 if rule.low - 1 not in rule.also else rule.low - 2), ("above", rule.high * 2 + 1)]
    yield from beyond
    if rule.above:
        yield "0" if rule.low == 0 else "below", rule.low
    elif rule.low > 0:
        yield "0", 0
    if rule.below:
        yield "above", rule.high
    if rule.whole:
        yield "fraction", rule.low + 0.5
    if rule.share:
        yield "fraction", 1.5


def settings_of(settings: type) -> dict[str, Range | None]:
    """The ranges of a dataclass, by field; `None` where none is stated."""
    is_recipe = any(settings in groups for groups in RECIPES.values())
    return dict(setting_ranges(settings)) if is_recipe else ranges_of(settings)


def without_range(settings: type) -> list[str]:
    """The fields of a dataclass that have neither a range nor a reason not to have one."""
    hints = typing.get_type_hints(settings)
    silent = [name for name, rule in settings_of(settings).items() if rule is None and name not in FREE]
    # A field that is itself a dataclass is checked where it is read.
    return [name for name in silent if not _is_open(hints[name])]


def _is_open(hint: Any) -> bool:
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    return any(dataclasses.is_dataclass(kind) for kind in kinds)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    found = {}
    for name, (module, _) in COMMANDS.items():
        parser = Parser(prog=f"rm-toolkit {name}")
        importlib.import_module(module).add_arguments(parser)
        parser.finish()
        found[name] = parser
    return found


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.Action, Range | None]]:
    """The options of a command that take a value, each with its range; `None` where none is stated."""
    for action in parser._actions:
        if action.nargs == 0:
            continue
        if action.choices is not None:
            yield action, Choice(tuple(action.choices))
            continue
        yield action, action.type if isinstance(action.type, Range) else None


def wrong_words(rule: Range) -> Iterator[tuple[str, str]]:
    """Yields wrong values as they would be typed on a command line, as (kind, word)."""
    for kind, value in wrong_values(rule):
        if isinstance(value, int | float) and not isinstance(value, bool) and isinstance(rule, Number):
            yield kind, str(value)
        elif isinstance(value, str) and kind not in ("NUL", "surrogate"):
            yield kind, value
    if isinstance(rule, Number):
        yield "10,000 digits", "9" * 10_000
    elif isinstance(rule, Text) and not isinstance(rule, Choice):
        yield "surrogate", "a\udc80b"
