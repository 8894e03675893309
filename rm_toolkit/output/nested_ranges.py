"""Ranges of lists, mappings and optional values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, did_you_mean, name_list, one_line
from .ranges import MOST_LISTED, SHOWN, Range


@dataclass(frozen=True)
class ListOf(Range):
    """
    A list.

    Args:
        of (`Range`): Range of each value.
        least (`int`): Smallest number of values.
        alone (`bool`): Whether a single value counts as a list of one.
    """

    of: Range
    least: int = 0
    alone: bool = False

    @property
    def text(self) -> str:
        """In words."""
        text = f"a list{' that is not empty' if self.least else ''}, each item {self.of.text}"
        return f"{self.of.text}, or {text}" if self.alone else text

    def holds(self, value: Any) -> bool:
        """Whether it is a list of such values."""
        if self.alone and self.of.holds(value):
            return True
        is_list = isinstance(value, list | tuple | set)
        return is_list and len(value) >= self.least and all(self.of.holds(entry) for entry in value)


@dataclass(frozen=True)
class Keys(Range):
    """
    A mapping with names as keys.

    Args:
        known (`Mapping[str, Range]`, *optional*): The allowed keys and the range of each value (`None`:
            anything). If not given: any names.
    """

    known: Mapping[str, Range | None] | None = None

    @property
    def text(self) -> str:
        """In words."""
        return "a mapping of names" if self.known is None else f"a mapping with {self._keys()}"

    def _keys(self) -> str:
        many = len(self.known or ()) > MOST_LISTED
        return f"{len(self.known)} known keys" if many else f"the keys {name_list(self.known or ())}"

    def holds(self, value: Any) -> bool:
        """Whether it is a mapping, whose keys are names; their values are for [`check`]."""
        return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)

    def check(self, name: str, value: Any, where: str = "") -> None:
        """As in the base class; also names an unknown key, or a key whose value is out of its range."""
        super().check(name, value, where)
        for key, entry in value.items() if self.known is not None else ():
            if key not in self.known:
                raise InputError(
                    f"{where}`{name}` has no key '{one_line(key, SHOWN)}', only {self._keys()}."
                    f"{did_you_mean(key, self.known)}"
                )
            rule = self.known[key]
            if rule is not None:
                rule.check(f"{name}.{key}", entry, where)


@dataclass(frozen=True)
class Optional(Range):
    """
    Another range, or None.

    Args:
        of (`Range`): The other.
    """

    of: Range

    @property
    def text(self) -> str:
        """That of the other."""
        return self.of.text

    def holds(self, value: Any) -> bool:
        """Whether it is None or within the other."""
        return value is None or self.of.holds(value)

    def check(self, name: str, value: Any, where: str = "") -> None:
        """As of the other, for anything but None."""
        if value is not None:
            self.of.check(name, value, where)
