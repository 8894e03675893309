"""Output of a command: refused while in use, written to a temporary name, and renamed when complete."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from .lock import WriterLock
from .places import about
from .temporary import OLD, temporary_file, temporary_folder


def check_output(folder: Path, overwrite: bool, *, marker: str, command: str) -> None:
    """
    Refuses an output folder that may not be written.

    Args:
        folder (`Path`): Output folder of the command.
        overwrite (`bool`): Whether an earlier output of the same command may be replaced.
        marker (`str`): File that identifies such an output.
        command (`str`): The command, for the message.

    Raises:
        `InputError`: if `folder` is in use, unless `overwrite` is set and the folder is an earlier output.
    """
    if folder.is_file():
        raise InputError(f"{folder}: a file has that name; the output must be a folder.")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(
            f"{folder}: cannot be created, because {above} is not a writable folder. Name another output."
        )
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{folder}: the output folder is in use. Use another one, or pass --overwrite.")
    if not (folder / marker).is_file():
        raise InputError(
            f"{folder}: {command} did not write this folder, so --overwrite does not replace it. Remove it yourself."
        )


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """
    Gives a temporary file beside the target to write into; without an error it is flushed and renamed (atomic).

    Args:
        path (`str` or `os.PathLike`): The target, in an existing folder; an existing file is replaced.
        mode (`str`): `w` for text (UTF-8), `wb` for bytes.
    """
    path = Path(path)
    with about(path), temporary_file(path, mode) as (file, temporary):
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()  # a network file system may report only now that it is full
        os.replace(temporary, path)


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file atomically, see [`replaced_file`]."""
    with replaced_file(path) as file:
        file.write(text)


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """
    Gives an empty temporary folder beside the target to write into; without an error it is renamed (atomic).

    Args:
        folder (`Path`): The target; an existing folder is replaced, and restored if that fails.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder) as unfinished, about(folder):
        new = unfinished / "new"
        new.mkdir()
        yield new
        _put_in_place(new, folder, unfinished / OLD)


def _put_in_place(new: Path, folder: Path, old: Path) -> None:
    """Renames; where the system can exchange two folders, the name always exists."""
    if folder.exists():
        if _exchange(new, folder):
            return
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two paths atomically; returns whether this system and file system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform.startswith("linux") else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """
    [`replaced_folder`] for the output of a command, by one process at a time.

    Args:
        folder (`Path`): The target, checked with [`check_output`]; an existing folder is replaced.

    Raises:
        `InputError`: if another process writes that folder.
    """
    with WriterLock(folder), replaced_folder(folder) as new:
        yield new
