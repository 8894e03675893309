"""Kinds of damage to a JSON file, and the functions that cause them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from folder_values import BINARY


DEEP = 100_000
NESTED = b"[" * DEEP + b"]" * DEEP
HUGE_INTEGER = b"1" + b"0" * 9_999


def write(content: bytes) -> Callable[[Path], Any]:
    """A function that replaces the file's content."""
    return lambda path: path.write_bytes(content)


def change(*keys: str | int, **values: Any) -> Callable[[Path], None]:
    """A function that sets `values` in a JSON file, inside what `keys` lead to; the value `...` removes a key."""

    def harm(path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        inner = content
        for key in keys:
            inner = inner[key] if isinstance(key, int) else inner.setdefault(key, {})
        for name, value in values.items():
            if value is ...:
                inner.pop(name, None)
            else:
                inner[name] = value
        path.write_text(json.dumps(content), encoding="utf-8")

    return harm


def truncated(path: Path) -> None:
    """Cuts the file in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def a_folder(path: Path) -> None:
    """Replaces the file by a folder."""
    path.unlink(missing_ok=True)
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    """Replaces the file by a broken link."""
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent / "nowhere")


def a_pipe(path: Path) -> None:
    """Replaces the file by a named pipe, which blocks whoever opens it."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def a_device(path: Path) -> None:
    """Replaces the file by a link to an endless device."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def gigantic(path: Path) -> None:
    """Replaces the file by a sparse one of 64 GB."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(64 << 30)


def remove(path: Path) -> None:
    """Removes the file."""
    path.unlink()


WRONG_FILES: dict[str, Callable[[Path], Any]] = {
    "is missing": remove,
    "is empty": write(b""),
    "is cut off": truncated,
    "is not JSON": write(b"model_type: llama\n"),
    "is a list": write(b"[1, 2]"),
    "is a string": write(b'"llama"'),
    "is a number": write(b"7"),
    "is null": write(b"null"),
    "is nested 100,000 deep": write(NESTED),
    "has a key nested 100,000 deep": write(b'{"x": ' + NESTED + b"}"),
    "has an integer of 10,000 digits": write(b'{"x": ' + HUGE_INTEGER + b"}"),
    "is not UTF-8": write(BINARY),
    "is a folder": a_folder,
    "is a dangling link": a_dangling_link,
    "is a pipe": a_pipe,
    "is an endless device": a_device,
    "has 64 GB": gigantic,
}
