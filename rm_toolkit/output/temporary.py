"""
What is half-written: under names of its own, locked by the process that writes it, so that the next start can tell what
a killed process has left and removes it.
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
except ImportError:  # Windows: the age of what is found decides
    fcntl = None

PREFIX = ".saving-"
OLD = "old"  # in a temporary folder: what stood in the place of its output, until the new one is there
LONGEST = 120  # characters of an output's name that its temporary one shows; 255 are allowed in all
SCRATCH = "rm-toolkit-scratch-"
TRIES = 100


def temporary_name(output: Path) -> Path:
    """Returns a new name beside an output, which tells the output and the computer."""
    return output.with_name(f"{_start(output)}{this_computer()}-{uuid.uuid4().hex[:12]}")


def hold(path: Path) -> int | None:
    """
    Marks a temporary file or folder as one that is being written, until the process ends or the result is closed.

    Returns:
        `int`, *optional*: A descriptor; `None` where the path is not there, or where there are no locks.
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
            if path.exists():  # else somebody who cleans up was faster than the lock
                break
            file.close()
        with file:
            yield file, path
    finally:
        with contextlib.suppress(OSError):  # a disk that has become read-only
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
        # What a failed return to the earlier output has left here is all that there is of it: the next start puts it back.
        if output.exists() or not (folder / OLD).exists():
            shutil.rmtree(folder, ignore_errors=True)
        let_go(descriptor)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Gives an empty folder in the system's place for temporary files, removed at the end; those of killed processes go."""
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
    """Makes a folder and holds it; another one where somebody who cleans up was faster than the lock."""
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
    Removes what killed processes have left half-written beside an output and directly in it.

    An earlier output that one of them had put aside and not replaced yet is put back.

    Args:
        output (`Path`): A file or folder; nobody else may be writing it.
    """
    with contextlib.suppress(OSError):
        for path in _starting_with(output.parent, _start(output)):
            if _is_left(path):
                if (path / OLD).is_dir() and not output.exists():
                    os.rename(path / OLD, output)
                _remove(path)
        # Files beside it that belong to it: NAME.report.json, NAME.run.json.
        for path in _starting_with(output.parent, f"{PREFIX}{output.stem[:LONGEST]}."):
            if not path.is_dir() and _is_left(path):
                _remove(path)
        if output.is_dir() and not output.is_symlink():
            for path in _starting_with(output, PREFIX):
                if not (path / OLD).exists() and _is_left(path):
                    _remove(path)


def remove_left_in(folder: Path, start: str) -> None:
    """Removes what killed processes have left of files whose names start with something, in a folder of many."""
    with contextlib.suppress(OSError):
        for path in _starting_with(folder, f"{PREFIX}{start}"):
            if not path.is_dir() and _is_left(path):
                _remove(path)


def _start(output: Path) -> str:
    return f"{PREFIX}{output.name[:LONGEST]}-"


def this_computer() -> str:
    """Returns a short name of this computer until it is started again."""
    return f"{zlib.crc32(machine().encode()):08x}"


def _starting_with(folder: Path, start: str) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if entry.name.startswith(start)]
    except OSError:
        return []


def _is_left(path: Path) -> bool:
    """Whether nobody writes it any more. The lock tells of this computer, where there are locks; else its age does."""
    told = re.search(r"-([0-9a-f]{8})-[0-9a-f]{12}$", path.name)
    if path.is_symlink() or (told is None and not _is_of_earlier_version(path)):
        return False  # somebody else's
    if told is None or told[1] != this_computer() or fcntl is None:
        return _age(path) > STALE_SECONDS
    descriptor = hold(path)
    let_go(descriptor)
    return descriptor is not None


def _is_of_earlier_version(path: Path) -> bool:
    """Whether a version up to 0.5.0 has named it so: a file with its process, or a folder with what it was to become."""
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
