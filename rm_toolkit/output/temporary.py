"""
Partial output has its own names and is locked by the process that writes it, so that the next start can recognize and
remove what a killed process has left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .holder import STALE_SECONDS, machine


try:
    import fcntl
except ImportError:  # Windows: the age of a file decides
    fcntl = None

PREFIX = ".saving-"
OLD = "old"  # in a temporary folder: the earlier output, until the new one is in place
LONGEST = 120  # characters of an output's name in its temporary name; 255 are allowed in total
SCRATCH = "rm-toolkit-scratch-"
TRIES = 100


def temporary_name(output: Path) -> Path:
    """Returns a new name beside an output, with the output's name and the computer."""
    return output.with_name(f"{_start(output)}{this_computer()}-{uuid.uuid4().hex[:12]}")


def hold(path: Path) -> int | None:
    """
    Marks a temporary file or folder as one that is being written, until the process ends or the result is closed.

    Returns:
        `int`, *optional*: A descriptor; `None` if the path does not exist, or there are no locks.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None


def let_go(descriptor: int | None) -> None:
    """Undoes [`hold`]."""
    if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def temporary_file(output: Path, mode: str) -> Iterator[tuple[IO[Any], Path]]:
    """Gives a file to write beside an output, with its path; it is removed at the end, if it still has that name."""
    descriptor = None
    try:
        for _ in range(TRIES):
            path = temporary_name(output)
            file = path.open(mode, encoding=None if "b" in mode else "utf-8")
            descriptor = hold(path)
            if path.exists():  # otherwise a cleanup was faster than the lock
                break
            file.close()
        with file:
            yield file, path
    finally:
        with contextlib.suppress(OSError):  # the disk has become read-only
            path.unlink(missing_ok=True)
        let_go(descriptor)


@contextlib.contextmanager
def temporary_folder(output: Path) -> Iterator[Path]:
    """Gives an empty folder beside an output, removed at the end."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder, descriptor = _held_folder(lambda: temporary_name(output), 0o777)
    try:
        yield folder
    finally:
        # If restoring the earlier output failed, its only copy is here: the next start puts it back.
        if output.exists() or not (folder / OLD).exists():
            shutil.rmtree(folder, ignore_errors=True)
        let_go(descriptor)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """
    Gives an empty folder in the system's temporary folder, removed at the end; removes those of killed processes.
    """
    place = Path(tempfile.gettempdir())
    start = f"{SCRATCH}{getattr(os, 'getuid', int)()}-"
    for path in _starting_with(place, start):
        if _is_left(path):
            _remove(path)
    folder, descriptor = _held_folder(lambda: place / f"{start}{this_computer()}-{uuid.uuid4().hex[:12]}", 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        let_go(descriptor)


def _held_folder(name: Callable[[], Path], mode: int) -> tuple[Path, int | None]:
    """Creates a folder and locks it; creates another one if a cleanup was faster than the lock."""
    for _ in range(TRIES):
        folder = name()
        folder.mkdir(mode=mode)
        descriptor = hold(folder)
        if folder.is_dir():
            break
        let_go(descriptor)
    return folder, descriptor


def remove_left(output: Path) -> None:
    """
    Removes partial output of killed processes beside an output and directly in it.

    An earlier output that one of them had moved away and not replaced yet is restored.

    Args:
        output (`Path`): A file or folder; no other process may be writing it.
    """
    with contextlib.suppress(OSError):
        for path in _starting_with(output.parent, _start(output)):
            if _is_left(path):
                if (path / OLD).is_dir() and not output.exists():
                    os.rename(path / OLD, output)
                _remove(path)
        # Its companion files: NAME.report.json, NAME.run.json.
        for path in _starting_with(output.parent, f"{PREFIX}{output.stem[:LONGEST]}."):
            if not path.is_dir() and _is_left(path):
                _remove(path)
        if output.is_dir() and not output.is_symlink():
            for path in _starting_with(output, PREFIX):
                if not (path / OLD).exists() and _is_left(path):
                    _remove(path)


def remove_left_in(folder: Path, start: str) -> None:
    """Removes partial files of killed processes whose names start with a prefix, in a shared folder."""
    with contextlib.suppress(OSError):
        for path in _starting_with(folder, f"{PREFIX}{start}"):
            if not path.is_dir() and _is_left(path):
                _remove(path)


def _start(output: Path) -> str:
    return f"{PREFIX}{output.name[:LONGEST]}-"


def this_computer() -> str:
    """Returns a short name of this computer, valid until its next boot."""
    return f"{zlib.crc32(machine().encode()):08x}"


def _starting_with(folder: Path, start: str) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if entry.name.startswith(start)]
    except OSError:
        return []


def _is_left(path: Path) -> bool:
    """Whether no process writes it any more: by its lock on this computer, if there are locks; else by its age."""
    told = re.search(r"-([0-9a-f]{8})-[0-9a-f]{12}$", path.name)
    if path.is_symlink() or (told is None and not _is_of_earlier_version(path)):
        return False  # from another user
    if told is None or told[1] != this_computer() or fcntl is None:
        return _age(path) > STALE_SECONDS
    descriptor = hold(path)
    let_go(descriptor)
    return descriptor is not None


def _is_of_earlier_version(path: Path) -> bool:
    """
    Whether it has a name of version 0.5.0 or earlier: a file with its process id, or a folder with the output's name.
    """
    if not path.is_dir():
        return re.search(r"-\d+-[0-9a-f]{8}$", path.name) is not None
    return {entry.name for entry in path.iterdir()} <= {"new", OLD} and re.search(
        r"-[a-z0-9_]{8}$", path.name
    ) is not None


def _age(path: Path) -> float:
    """Seconds since anything in it was written."""
    with contextlib.suppress(OSError):
        inside = path.rglob("*") if path.is_dir() else ()
        return time.time() - max(entry.lstat().st_mtime for entry in (path, *inside))
    return 0.0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
