"""What a command writes: refused while in use, written beside its place, and renamed when whole."""

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
        folder (`Path`): Where the command writes to.
        overwrite (`bool`): Whether an earlier output of the same command may be replaced.
        marker (`str`): File by which such an output is known.
        command (`str`): The command, for the message.

    Raises:
        `InputError`: if `folder` is in use without `overwrite`, or with it, not ours to replace.
    """
    if folder.is_file():
        raise InputError(f"{folder}: there is a file of that name; the output must be a folder.")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(
            f"{folder}: cannot be made, since {above} is not a folder that can be written to. Name another output."
        )
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{folder}: the output folder is in use. Take another one, or pass --overwrite.")
    if not (folder / marker).is_file():
        raise InputError(
            f"{folder}: not a folder that {command} wrote, so --overwrite leaves it alone. Remove it yourself."
        )


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """
    Gives a file to write into, beside its place; without an error it is put on the disk and renamed: never half there.

    Args:
        path (`str` or `os.PathLike`): Where to, in a folder that is there; what stands there is replaced.
        mode (`str`): `w` for text (UTF-8), `wb` for bytes.
    """
    path = Path(path)
    with about(path), temporary_file(path, mode) as (file, temporary):
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()  # a network file system may say only now that there was no room
        os.replace(temporary, path)


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file whole, see [`replaced_file`]."""
    with replaced_file(path) as file:
        file.write(text)


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """
    Gives an empty folder to write into, beside its place; without an error it is renamed: never half there.

    Args:
        folder (`Path`): Where to; what stands there is replaced, and comes back if that fails.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder) as unfinished, about(folder):
        new = unfinished / "new"
        new.mkdir()
        yield new
        _put_in_place(new, folder, unfinished / OLD)


def _put_in_place(new: Path, folder: Path, old: Path) -> None:
    """Renames, so that one of the two is under the name at every moment where the system can exchange two folders."""
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
    """Gives two paths each other's names at once; returns whether this system and file system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform.startswith("linux") else None
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """
    [`replaced_folder`] for what a command writes: one process at a time.

    Args:
        folder (`Path`): Where to, checked with [`check_output`]; what stands there is replaced.

    Raises:
        `InputError`: if another process writes that folder.
    """
    with WriterLock(folder), replaced_folder(folder) as new:
        yield new
