"""The one exception for mistakes that a user can fix: shown without a traceback by every command and recipe."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """
    A user's input cannot be used. The message names the input and its value, says what is wrong and what to do.

    Commands and recipes print only the message and exit with code 2; in Python it is an ordinary `ValueError`.
    If `of_one_process` is set, the process that raises it prints it; otherwise all processes raise it and the first
    prints it.
    """

    of_one_process = False


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """
    Returns `" Did you mean 'x'?"` for the name in `known` that is closest to `value`, or an empty string.

    Args:
        value (`str`): The name that was given.
        known (`Iterable[str]`): The names that exist.
    """
    close = difflib.get_close_matches(str(value), [str(name) for name in known], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def name_list(names: Iterable[str]) -> str:
    """Returns `'a', 'b', 'c'` for an error message."""
    return ", ".join(f"'{name}'" for name in names)


def one_line(text: str, width: int | None = None) -> str:
    """Returns a user's text for a message: control characters and line ends escaped, cut to `width` characters."""
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if width is None or len(text) <= width else text[:width].rstrip() + "…"


def beginning(text: str, width: int = 60) -> str:
    """Returns the first words of a user's text for a message, with every run of white space as one space."""
    return one_line(" ".join(text.split()), width)


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """Returns the last line of an exception's message, or its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def class_and_line(error: BaseException, width: int | None = None) -> str:
    """Returns `ClassName: first line of the message`, that line cut to `width` characters, or the class alone."""
    name, line = type(error).__name__, first_line(error)[:width]
    return name if line == name else f"{name}: {line}"
