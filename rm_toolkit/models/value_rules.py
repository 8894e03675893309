"""What a value of a settings file may be: small rules that say in words what is wrong."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, name_list
from ..output.json_files import REMEDY, kind_of, shown


# Returns what a value should be where it is not, such as "a whole number from 1 to 10".
Rule = Callable[[Any], str | None]


def whole(low: int, high: int) -> Rule:
    """A whole number within limits."""

    def rule(value: Any) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"a whole number from {low:,} to {high:,}"

    return rule


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """A finite number within limits."""

    def rule(value: Any) -> str | None:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        limits = (
            f" from {low:,} to {high:,}" if math.isfinite(high) else f" from {low:,}" if math.isfinite(low) else ""
        )
        return None if fits and low <= value <= high else f"a finite number{limits}"

    return rule


def text(value: Any) -> str | None:
    """Any string."""
    return None if isinstance(value, str) else "a string"


def date(value: Any) -> str | None:
    """A day, `YYYY-MM-DD`."""
    return None if isinstance(value, str) and re.fullmatch(r"\d{4}-[01]\d-[0-3]\d", value) else "a date, YYYY-MM-DD"


def flag(value: Any) -> str | None:
    """`true` or `false`."""
    return None if isinstance(value, bool) else "true or false"


def mapping(value: Any) -> str | None:
    """A mapping with anything in it."""
    return None if isinstance(value, dict) else "a mapping of names to values"


def pattern(value: Any) -> str | None:
    """A regular expression that is matched in bounded time: no repetition of what is a repetition itself."""
    wanted = "a regular expression without repetitions inside repetitions, such as `(a+)+`, which may never end"
    if not isinstance(value, str):
        return wanted
    try:
        return wanted if _repeats_repetition(re._parser.parse(value), False) else None  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError):
        return "a valid regular expression"


def _repeats_repetition(part: Any, repeated: bool) -> bool:
    """Whether there is a repetition of unknown length inside another one."""
    if isinstance(part, tuple) and len(part) == 2 and str(part[0]) in ("MAX_REPEAT", "MIN_REPEAT"):
        low, high, inner = part[1]
        many = high > low and high > 1
        return (many and repeated) or _repeats_repetition(inner, repeated or many)
    if isinstance(part, tuple | list) or hasattr(part, "data"):
        return any(_repeats_repetition(inner, repeated) for inner in getattr(part, "data", part))
    return False


def one_of(*names: str) -> Rule:
    """One of some strings."""

    def rule(value: Any) -> str | None:
        return None if isinstance(value, str) and value in names else f"one of {name_list(names)}"

    return rule


def list_of(inner: Rule) -> Rule:
    """A list of values of one kind."""

    def rule(value: Any) -> str | None:
        wrong = [inner(item) for item in value] if isinstance(value, list) else ["x"]
        return f"a list, each item {next(filter(None, wrong), inner(...))}" if any(wrong) else None

    return rule


def mapping_of(inner: Rule, keys: Rule | None = None) -> Rule:
    """A mapping whose values are of one kind."""

    def rule(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f"a mapping of names, each to {inner(...)}"
        wrong = [inner(item) for item in value.values()] + [keys(key) for key in value if keys is not None]
        return f"a mapping of names, each to {inner(...)}" if any(wrong) else None

    return rule


def either(*rules: Rule) -> Rule:
    """What one of several rules takes."""

    def rule(value: Any) -> str | None:
        said = [inner(value) for inner in rules]
        return None if None in said else " or ".join(dict.fromkeys(str(line) for line in said))

    return rule


def optional(inner: Rule) -> Rule:
    """What a rule takes, or null."""
    return lambda value: None if value is None else inner(value)


def digits(value: Any) -> str | None:
    """A whole number, written as the key of a mapping."""
    return None if str(value).isdecimal() and len(str(value)) < 12 else "a number"


def check_values(
    values: Mapping[str, Any], rules: Mapping[str, Rule], path: str | os.PathLike, inside: str = ""
) -> None:
    """
    Compares the values of a file with its rules; keys without a rule, and rules without a key, are passed over.

    Args:
        values (`Mapping`): What the file holds.
        rules (`Mapping`): Key -> rule.
        path (`str` or `os.PathLike`): The file, for the message.
        inside (`str`): Key of the mapping that the values are in, with a dot.

    Raises:
        `InputError`: naming file, key and value, what it should be, and the remedy.
    """
    for key, rule in rules.items():
        if key in values and (wanted := rule(values[key])) is not None:
            value = values[key]
            said = shown(value) if not isinstance(value, dict | list) else f"{kind_of(value)}, {shown(value)}"
            raise InputError(f"{Path(path)}: `{inside}{key}` is {said}; it must be {wanted}. {REMEDY}")
