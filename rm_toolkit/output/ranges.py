"""The range of a setting, stated once: checks, help texts, command lines and tests derive from it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import numbers
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import InputError, did_you_mean, name_list, one_line


MANY = 2**31 - 1  # limit of any count
NO_LIMIT = 1_000_000  # from here on an upper bound says what the machine can hold, not what is sensible
MOST_LISTED = 20  # choices in a message
SHOWN = 80  # characters of a value in a message


class Range:
    """
    The range of a value. A dataclass states it in the type of a field, `Annotated[float, Number(0, 1)]`; an option of
    argparse has it as its `type`.
    """

    @property
    def text(self) -> str:
        """Description that follows "must be"."""
        raise NotImplementedError

    def holds(self, value: Any) -> bool:
        """Whether a value is within the range."""
        raise NotImplementedError

    def hint(self, value: Any) -> str:
        """An extra hint for a value that is out of range, with a leading space."""
        return ""

    def check(self, name: str, value: Any, where: str = "") -> None:
        """
        Refuses a value that is not within the range.

        Args:
            name (`str`): Name of the setting.
            value: Its value.
            where (`str`): Prefix of the message: a file, or the owner of the setting.

        Raises:
            `InputError`: naming the setting, the value and the range.
        """
        if not self.holds(value):
            raise InputError(f"{where}`{name}` is {shown(value)}; it must be {self.text}.{self.hint(value)}")

    def read(self, text: str) -> Any:
        """Parses a text from the command line; the value may still be out of range."""
        return text

    def __call__(self, text: str) -> Any:
        """Returns the value of a command-line option, within the range: for `type=` of argparse."""
        value = self.read(text)
        if not self.holds(value):
            raise argparse.ArgumentTypeError(
                f"it is '{one_line(text, SHOWN)}'; it must be {self.text}.{self.hint(text)}"
            )
        return value


@dataclass(frozen=True)
class Number(Range):
    """
    A finite number.

    Args:
        low, high (`float`): Limits of the range.
        above, below (`bool`): Whether `low` and `high` are excluded.
        whole (`bool`): Whether it must be a whole number.
        share (`bool`): Whether it must be whole from 1 on; below 1 it is a fraction.
        also (`tuple`): Other allowed values, such as `"auto"`.
        unit (`str`): What is counted, for the description.
    """

    low: float = 0
    high: float = MANY
    _: dataclasses.KW_ONLY
    above: bool = False
    below: bool = False
    whole: bool = False
    share: bool = False
    also: tuple[Any, ...] = ()
    unit: str = ""

    @property
    def text(self) -> str:
        """In words, such as "a number above 0 and at most 1"."""
        kind = "a whole number" if self.whole else "a number"
        kind += f" of {self.unit}" if self.unit else ""
        if self.above or self.below:
            kind += f" {'above' if self.above else 'from'} {_figure(self.low)}"
            kind += f" and {'below' if self.below else 'at most'} {_figure(self.high)}"
        else:
            kind += f" from {_figure(self.low)} to {_figure(self.high)}"
        kind += ", whole if above 1" if self.share else ""
        return kind + "".join(f", or {shown(value)}" for value in self.also)

    @property
    def brief(self) -> str:
        """For a help text: "1 or more", "above 0, at most 1". A bound that only the machine sets is left out."""
        low = f"{'above ' if self.above else ''}{_figure(self.low)}"
        if self.high >= NO_LIMIT:
            text = "any" if self.low <= -NO_LIMIT else low if self.above else f"{low} or more"
        elif self.above or self.below:
            text = (
                f"{low if self.above else f'from {low}'}, {'below' if self.below else 'at most'} {_figure(self.high)}"
            )
        else:
            text = f"{low} to {_figure(self.high)}"
        return text + "".join(f", or {plain(value)}" for value in self.also if value is not None)

    def holds(self, value: Any) -> bool:
        """Whether a value is a number (not a bool) within the range."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return isinstance(value, str | None) and value in self.also
        if value in self.also:
            return True
        if self.whole and not isinstance(value, numbers.Integral):
            return False
        if not (self.low < value if self.above else self.low <= value):  # NaN is neither
            return False
        if not (value < self.high if self.below else value <= self.high):
            return False
        return not self.share or value < 1 or value == int(value)

    def read(self, text: str) -> Any:
        """An integer if the text is one, else a float; the text itself if it is neither."""
        if text in self.also:
            return text
        for kind in (int, float):
            with contextlib.suppress(ValueError):  # also for an integer with too many digits
                return kind(text)
        return text


@dataclass(frozen=True)
class Choice(Range):
    """
    One of some values.

    Args:
        values (`tuple`): The allowed values.
    """

    values: tuple[Any, ...]

    @property
    def text(self) -> str:
        """The values, if there are not too many."""
        if len(self.values) > MOST_LISTED:
            return f"one of {len(self.values)} names that `--help` lists"
        return f"one of {name_list(str(plain(value)) for value in self.values)}"

    def holds(self, value: Any) -> bool:
        """Whether it is one of them, or an enum with such a value."""
        return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in self.values)

    def hint(self, value: Any) -> str:
        """The nearest of the values."""
        return did_you_mean(value, [plain(known) for known in self.values]) if isinstance(value, str) else ""


@dataclass(frozen=True)
class Text(Range):
    """
    A string.

    Args:
        empty (`bool`): Whether it may be empty.
    """

    empty: bool = True

    @property
    def text(self) -> str:
        """In words."""
        return "a string" if self.empty else "a string that is not empty"

    def holds(self, value: Any) -> bool:
        """Whether it is a string without NUL that UTF-8 can encode."""
        return (
            isinstance(value, str) and "\0" not in value and is_unicode(value) and (self.empty or bool(value.strip()))
        )

    def hint(self, value: Any) -> str:
        """The invalid character of a string."""
        if not isinstance(value, str):
            return ""
        if "\0" in value:
            return " It has a NUL character."
        return "" if is_unicode(value) else " It has a lone surrogate such as \\ud800, which is not a character."


@dataclass(frozen=True)
class Flag(Range):
    """True or false."""

    @property
    def text(self) -> str:
        """In words."""
        return "true or false"

    def holds(self, value: Any) -> bool:
        """Whether it is a bool."""
        return isinstance(value, bool)


def shown(value: Any) -> str:
    """Returns a value for a message: as YAML writes it, on one line, truncated if long."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a whole number of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    try:
        text = f"'{value}'" if isinstance(value, str) else repr(plain(value))
    except (ValueError, RecursionError):  # too many digits for Python, or a list that contains itself
        text = f"a {type(value).__name__}"
    return one_line(text, SHOWN)


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates (as of JSON's "\\ud800"), which UTF-8 cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def plain(value: Any) -> Any:
    """Returns a value, and for an enum its value."""
    return value.value if isinstance(value, Enum) else value


def _figure(value: float) -> str:
    """A bound in readable form: 1,048,576 and 0.1 and 1e-08."""
    return f"{int(value):,}" if value == int(value) and abs(value) < 1e15 else f"{value:g}"
