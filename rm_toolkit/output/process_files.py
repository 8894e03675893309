"""
Gives temporary files of libraries names with the process id, so that the next start can remove those of a killed one.

For example, the datasets library writes mapped rows into a temporary file in its cache, and leaves it there if killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .holder import is_alive, pid_namespace
from .temporary import this_computer


START = "tmp-rm_toolkit-"
_places: set[str] = set()  # folders in which this process may have temporary files


@contextlib.contextmanager
def named_temporary_files() -> Iterator[None]:
    """A context in which files of Python's `tempfile` are named after this process; for commands and recipes."""
    before, tempfile.template = tempfile.template, _own_start()
    try:
        with contextlib.suppress(OSError):  # a missing temporary folder is reported where one is needed
            remove_left_by_processes(tempfile.gettempdir())
        yield
    finally:
        tempfile.template = before


def remove_left_by_processes(folder: str | os.PathLike) -> None:
    """
    Removes temporary files of processes that have ended, and remembers the folder for [`remove_own_files`].

    Args:
        folder (`str` or `os.PathLike`): Where libraries make temporary files.
    """
    _places.add(os.fspath(folder))
    for path, computer, pid in _temporary_files(folder):
        if computer == _computer() and not is_alive(pid):
            _remove(path)


def remove_own_files() -> None:
    """
    Removes the files that libraries of this process created within [`named_temporary_files`] and left after an error.
    """
    for place in _places:
        for path, computer, pid in _temporary_files(place):
            if computer == _computer() and pid == os.getpid():
                _remove(path)


def _own_start() -> str:
    return f"{START}{_computer()}-{os.getpid()}-"


def _computer() -> str:
    """Names this computer and the container: a process id is valid only inside it."""
    return f"{this_computer()}-{pid_namespace() or 0}"


def _temporary_files(folder: str | os.PathLike) -> list[tuple[Path, str, int]]:
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            told = re.match(rf"{START}([0-9a-f]{{8}}-\d+)-(\d+)-", entry.name)
            if told is not None:
                found.append((Path(entry.path), told[1], int(told[2])))
    return found


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
