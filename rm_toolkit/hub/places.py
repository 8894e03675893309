"""Paths of the user's machine in published files: removed where they are known, refused elsewhere."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.records import looks_like_hub_id
from ..errors import InputError


# Not in the middle of a URL or of a relative path.
ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~<-])~?/(?:[^\s'\"`,;:()/<>]+/)+([^\s'\"`,;:()/<>]+)")
# Settings of transformers that record where a file was loaded from; not needed to load it again.
LOADED_FROM = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "chat_template_file")
READ_AS_TEXT = (".json", ".jinja", ".md", ".txt", ".py")
# Every machine has these, so they reveal nothing.
SYSTEM_FOLDERS = {"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "usr"}


def is_local(name: str, recorded: bool | None = None) -> bool:
    """Whether a base or a dataset was a path of the training machine, as recorded or as judged here."""
    if recorded is not None:
        return recorded
    return os.path.exists(name) or not looks_like_hub_id(name)


def public_name(name: str, recorded: bool | None = None) -> str:
    """Returns a Hub id as it is, and only the last part of a path."""
    return Path(name).name if is_local(name, recorded) else name


def without_places(values: Any) -> Any:
    """Returns the content of a JSON file with every path that transformers recorded reduced to its last part."""
    if isinstance(values, list):
        return [without_places(item) for item in values]
    if not isinstance(values, dict):
        return values
    return {
        key: public_name(value) if key in LOADED_FROM and isinstance(value, str) and value else without_places(value)
        for key, value in values.items()
    }


def shorten_paths(text: str) -> str:
    """Returns a text with every absolute path reduced to its last part."""
    return ABSOLUTE_PATH.sub(r"\1", text)


def check_no_places(folder: Path, *, source: str) -> None:
    """
    Refuses to publish a text file that names a path of this machine.

    Args:
        folder (`Path`): What is published.
        source (`str`): Its origin.

    Raises:
        `InputError`: naming the file, and its key or line.
    """
    roots = _roots(source)
    # A card is built from the other files, so they are reported first.
    for path in sorted(folder.rglob("*"), key=lambda path: (path.suffix == ".md", path)):
        if not path.is_file() or path.suffix not in READ_AS_TEXT:
            continue
        for where, text in _texts(path):
            named = (match[0].rstrip(".") for match in ABSOLUTE_PATH.finditer(text))
            found = next((name for name in named if _is_place(name, roots)), None)
            if found is not None:
                raise InputError(
                    f"{path.relative_to(folder)}, {where}: '{found}' is a path of this machine; nothing was sent. Remove it "
                    "from that file, or write a name that others can use."
                )


def _roots(source: str) -> list[Path]:
    """Folders that only this machine has: every path in them is local."""
    found = [Path.home(), Path.cwd(), Path(source).resolve(), Path(source).absolute()]
    return [path for path in found if len(path.parts) > 1]


def _is_place(text: str, roots: list[Path]) -> bool:
    path = Path(os.path.expanduser(text))
    if any(root == path or root in path.parents for root in roots):
        return True
    if not path.parts[1:] or path.parts[1] in SYSTEM_FOLDERS:
        return False
    gone = len(path.parent.parts) > 2 and os.path.exists(path.parent)  # a file that no longer exists
    return os.path.exists(path) or gone


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Every string of a JSON file with its key, or every line of another file with its number."""
    content = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        try:
            yield from _strings(json.loads(content), "")
            return
        except (ValueError, RecursionError):
            pass  # read as lines
    for number, line in enumerate(content.splitlines(), 1):
        yield f"line {number}", line


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield f"`{key}`", value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield f"a key of `{key}`" if key else "a key", name
            yield from _strings(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, f"{key}[{number}]")
