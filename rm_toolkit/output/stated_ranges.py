"""The ranges that the fields of a dataclass declare, and their check."""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from .nested_ranges import ListOf, Optional
from .ranges import Choice, Flag, Number, Range, Text


def ranges_of(settings: type, stated: Mapping[str, Range] | None = None) -> dict[str, Range | None]:
    """
    Returns the range of each field of a dataclass: from `Annotated` in its type, or from `stated` for classes that are
    not ours, or derived from its type and its choices.

    Args:
        settings (`type`): The dataclass.
        stated (`Mapping[str, Range]`, *optional*): By name of the field.

    Returns:
        `dict`: By name of the field. `None` for a number without a declared range, and for other types without one.
    """
    hints = typing.get_type_hints(settings, include_extras=True)
    return {
        field.name: _range_of(hints[field.name], (stated or {}).get(field.name), field.metadata.get("choices"))
        for field in dataclasses.fields(settings)
    }


def check_ranges(settings: Any, where: str = "", ranges: Mapping[str, Range | None] | None = None) -> None:
    """
    Refuses the first field of a dataclass whose value is out of its range.

    Args:
        settings: An instance.
        where (`str`): Prefix of the message.
        ranges (`Mapping`, *optional*): From [`ranges_of`], if already computed.

    Raises:
        `InputError`: naming the field, its value and its range.
    """
    for name, rule in (ranges_of(type(settings)) if ranges is None else ranges).items():
        if rule is not None:
            rule.check(name, getattr(settings, name), where)


def say_range(action: argparse.Action, rule: Range | None) -> None:
    """
    Parses a numeric command-line option by its range, and adds the range to its help.

    Args:
        action (`argparse.Action`): The option.
        rule (`Range`, *optional*): Its range.
    """
    number = rule.of if isinstance(rule, Optional) else rule
    if not isinstance(number, Number):
        return
    if not isinstance(action.type, Range):
        action.type = number
    if action.help:
        text = action.help.rstrip(". ")
        brief = f"{number.brief}{rule.text.removeprefix(number.text)}"
        if number.brief in text:
            return
        action.help = f"{text[:-1]}; {brief})" if re.search(r"\(default[^()]*\)$", text) else f"{text} ({brief})"


def _range_of(hint: Any, stated: Range | None, choices: Any) -> Range | None:
    written = [entry for entry in getattr(hint, "__metadata__", ()) if isinstance(entry, Range)]
    hint = hint.__origin__ if typing.get_origin(hint) is typing.Annotated else hint
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [option for option in options if option is not type(None)]
    rule = written[0] if written else stated or _by_type(kinds, choices)
    return Optional(rule) if rule is not None and type(None) in options else rule


def _by_type(kinds: list[Any], choices: Any) -> Range | None:
    """The range of a type that is not a number."""
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    if choices:
        return Choice(tuple(choices))
    if len(enums) == 1:
        return Choice(tuple(enums[0]))
    if kinds == [bool]:
        return Flag()
    if kinds == [str]:
        return Text()
    if len(kinds) == 1 and typing.get_origin(kinds[0]) is list and typing.get_args(kinds[0]) == (str,):
        return ListOf(Text())
    return None
