"""The YAML of a recipe: its names, their types and the ranges of their values."""

from __future__ import annotations

import datetime
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, did_you_mean
from ..output.ranges import shown
from ..output.strict_yaml import read_yaml
from .setting_ranges import setting_ranges


def load_yaml(path: str | Path) -> dict[str, Any]:
    """
    Reads a recipe.

    Raises:
        `InputError`: if the file does not exist, is not a YAML mapping, or has a duplicate key.
    """
    return read_yaml(path, "the recipe", "Give a YAML file with --config.")


def check_values(values: dict[str, Any], known: set[str], path: str | Path, groups: Sequence[type]) -> None:
    """
    Checks the names, types and ranges of a recipe's values; numbers that YAML reads as text (1e-6) are converted in
    place.

    Raises:
        `InputError`: naming file, key and value.
    """
    hints, ranges = {}, {}
    for group in groups:
        hints.update(typing.get_type_hints(group))
        ranges.update(setting_ranges(group))
    for key, value in values.items():
        if key not in known:
            raise InputError(
                f"{path}: there is no setting `{key}`.{did_you_mean(key, known)} `--help` lists them all."
            )
        values[key] = _converted(key, value, hints.get(key, Any), path)
        if ranges.get(key) is not None:
            ranges[key].check(key, values[key], f"{path}: ")


def _converted(key: str, value: Any, hint: Any, path: str | Path) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    allowed = tuple(option for option in (typing.get_origin(o) or o for o in options) if isinstance(option, type))
    if value is None and type(None) not in options and hint is not Any and allowed:
        raise InputError(f"{path}: `{key}` has no value (null). Give one, or remove the line for the default.")
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
    # `str` in a type hint is often the other form of an enum or of JSON; it never means a number or a list.
    if wrong_bool or not isinstance(value, allowed):
        if isinstance(value, str) and not set(allowed) & {int, float, bool, list, dict}:
            return value
        wanted = " or ".join(sorted(option.__name__ for option in allowed if option is not type(None)))
        raise InputError(f"{path}: `{key}` is {_written(value)} ({type(value).__name__}), but must be {wanted}.")
    return value


def _written(value: Any) -> str:
    """A value as JSON, if that is short."""
    try:
        text = json.dumps(value, default=str)
    except ValueError:
        return shown(value)
    return text if len(text) <= 80 else shown(value)
