"""
What a run has written into its output folder: a list in that folder, so that nothing else is ever removed from it.

A name is on the list before its file is written: what a killed run leaves is known, too.
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
    Returns the paths that a run wrote, relative to its output folder, those of folders with a slash at their end.

    Returns:
        `list[str]`, *optional*: `None` where no run has begun a list. What leads out of the folder is left out.
    """
    path = Path(folder, RUN_MANIFEST)
    try:
        names = load_json(path)["written"] if not path.is_symlink() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [name for name in names if is_inside(name)] if isinstance(names, list) else None


def begin_written(folder: str | os.PathLike, names: Iterable[str] = ()) -> None:
    """
    Begins the list of a run, unless there is one.

    Args:
        folder (`str` or `os.PathLike`): Output folder; made if it is not there.
        names (`Iterable[str]`): What is there already and was written by a run.
    """
    if read_written(folder) is None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _write(Path(folder), list(names))


def record_written(folder: str | os.PathLike, names: Iterable[str], *, are_there: bool = False) -> None:
    """
    Puts names on the list of a run; called before they are written, unless they `are_there`. Nothing happens in a folder without a list.

    What somebody else has put under such a name is put aside as `NAME.old`.

    Args:
        folder (`str` or `os.PathLike`): Output folder.
        names (`Iterable[str]`): Paths relative to it, those of folders with a slash at their end.
    """
    written = read_written(folder)
    new = [name for name in names if name not in written] if written is not None else []
    for name in new:
        if os.path.lexists(Path(folder, name)) and not are_there:
            put_aside(Path(folder, name))
    if new:
        _write(Path(folder), [*written, *new])


def put_aside(path: Path) -> None:
    """Renames what somebody else has put where a run writes to `NAME.old`, and says so."""
    names = (Path(f"{path}.old{number if number > 1 else ''}") for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    console.print(f"warning: {path} was not written by this run; it is {aside} now.")


def is_inside(name: object) -> bool:
    """Whether a name of a list stays below the folder of the list."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    return bool(parts) and parts[0] != "/" and ".." not in parts


def _write(folder: Path, names: list[str]) -> None:
    content = {"rm_toolkit_version": __version__, "written": sorted({*names})}
    replace_text(folder / RUN_MANIFEST, json.dumps(content, indent=1) + "\n")
