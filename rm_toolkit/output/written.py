"""
The list of what a run has written into its output folder, so that nothing else is ever removed from it.

A name is added before its file is written, so that files of a killed run are listed too.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .. import __version__
from .console import console
from .folders import replace_text
from .json_files import load_json


RUN_MANIFEST = ".rm_toolkit_run.json"


def read_written(folder: str | os.PathLike) -> list[str] | None:
    """
    Returns the paths that a run wrote, relative to its output folder, those of folders with a trailing slash.

    Returns:
        `list[str]`, *optional*: `None` if no run has begun a list. Paths outside the folder are left out.
    """
    path = Path(folder, RUN_MANIFEST)
    try:
        names = load_json(path)["written"] if not path.is_symlink() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [name for name in names if is_inside(name)] if isinstance(names, list) else None


def begin_written(folder: str | os.PathLike, names: Iterable[str] = ()) -> None:
    """
    Starts the list of a run, unless there is one.

    Args:
        folder (`str` or `os.PathLike`): Output folder; created if it does not exist.
        names (`Iterable[str]`): Existing files that a run wrote.
    """
    if read_written(folder) is None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _write(Path(folder), list(names))


def record_written(folder: str | os.PathLike, names: Iterable[str], *, are_there: bool = False) -> None:
    """
    Adds names to the list of a run; called before they are written, unless they `are_there`. Does nothing in a folder
    without a list.

    A foreign file with such a name is renamed to `NAME.old`.

    Args:
        folder (`str` or `os.PathLike`): Output folder.
        names (`Iterable[str]`): Paths relative to it, those of folders with a trailing slash.
    """
    written = read_written(folder)
    new = [name for name in names if name not in written] if written is not None else []
    for name in new:
        if os.path.lexists(Path(folder, name)) and not are_there:
            put_aside(Path(folder, name))
    if new:
        _write(Path(folder), [*written, *new])


def put_aside(path: Path) -> None:
    """Renames foreign files at paths that a run writes to `NAME.old`, and prints this."""
    names = (Path(f"{path}.old{number if number > 1 else ''}") for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    console.print(f"warning: {path} was not written by this run; it was renamed to {aside}.")


def is_inside(name: object) -> bool:
    """Whether a name of a list is inside the folder of the list."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    return bool(parts) and parts[0] != "/" and ".." not in parts


def _write(folder: Path, names: list[str]) -> None:
    content = {"rm_toolkit_version": __version__, "written": sorted({*names})}
    replace_text(folder / RUN_MANIFEST, json.dumps(content, indent=1) + "\n")
