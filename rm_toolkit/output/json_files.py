"""Reads settings files from untrusted sources in bounded time and memory, or refuses them in one line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line, one_line


# No settings file is that large. A vocabulary of a million tokens takes about 100 MB.
MOST_BYTES = 1 << 30
REMEDY = "Save the model again, or restore the file."


def check_regular(path: str | os.PathLike, most_bytes: int | None = MOST_BYTES) -> None:
    """
    Refuses a path that is not a regular file: a folder, a pipe, a device, a broken link.

    Args:
        path (`str` or `os.PathLike`): The path.
        most_bytes (`int`, *optional*): Largest size.

    Raises:
        `InputError`: naming it.
    """
    try:
        _check_regular(path, most_bytes)
    except (OSError, ValueError) as error:
        raise _refusal(path, error, REMEDY) from error


def read_text(path: str | os.PathLike, most_bytes: int = MOST_BYTES) -> str:
    """
    Reads a text file.

    Raises:
        `InputError`: if it is not a regular file, is larger than `most_bytes`, cannot be read, or is not UTF-8.
    """
    try:
        return _read_text(path, most_bytes)
    except (OSError, ValueError) as error:
        raise _refusal(path, error, REMEDY) from error


def read_json(path: str | os.PathLike, most_bytes: int = MOST_BYTES, *, remedy: str = REMEDY) -> Any:
    """
    Reads a JSON file.

    Args:
        path (`str` or `os.PathLike`): The file.
        most_bytes (`int`): Largest size.
        remedy (`str`): What to do, one sentence.

    Raises:
        `InputError`: as [`read_text`]; if it is not valid JSON, is nested too deeply or has an integer with too many
            digits.
    """
    try:
        return load_json(path, most_bytes)
    except (OSError, ValueError) as error:
        raise _refusal(path, error, remedy) from error


def load_json(path: str | os.PathLike, most_bytes: int = MOST_BYTES) -> Any:
    """
    Reads a JSON file for a caller that writes its own error message.

    Raises:
        `OSError`: as in Python; `FileNotFoundError` if there is no file.
        `ValueError`: with what is wrong, without the path.
    """
    text = _read_text(path, most_bytes)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("is nested too deeply to read") from error
    except ValueError as error:
        why = "it is empty" if not text.strip() else one_line(first_line(error), 160)
        raise ValueError(f"is not valid JSON ({why})") from error


def _read_text(path: str | os.PathLike, most_bytes: int) -> str:
    _check_regular(path, most_bytes)
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start:,})") from error


def _check_regular(path: str | os.PathLike, most_bytes: int | None) -> None:
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise ValueError("is a broken link") from error
        raise
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise ValueError(f"is {what}, not a file")
    if most_bytes is not None and found.st_size > most_bytes:
        raise ValueError(f"has {found.st_size:,} bytes, more than the limit of {most_bytes:,}")


def _refusal(path: str | os.PathLike, error: Exception, remedy: str) -> InputError:
    said = f"cannot be read ({error.strerror or first_line(error)})" if isinstance(error, OSError) else str(error)
    return InputError(f"{path} {said}. {remedy}")


def read_mapping(path: str | os.PathLike, most_bytes: int = MOST_BYTES, *, remedy: str = REMEDY) -> dict[str, Any]:
    """
    Reads a JSON file that holds a mapping of names to values.

    Raises:
        `InputError`: as [`read_json`]; if it has anything else.
    """
    value = read_json(path, most_bytes, remedy=remedy)
    if not isinstance(value, dict):
        raise InputError(f"{path} has {kind_of(value)}, but must be a mapping of names to values. {remedy}")
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def shown(value: Any) -> str:
    """A JSON value for a message: short, and in one line."""
    try:
        text = json.dumps(value, ensure_ascii=False) if not isinstance(value, dict | list) else str(value)
    except (ValueError, RecursionError):  # an integer with thousands of digits, very deep lists
        return kind_of(value)
    return one_line(text, 60)
