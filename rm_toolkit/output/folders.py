"""What a command writes: refused while in use, written beside its place, and renamed when whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .lock import WriterLock


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
        raise InputError(f"{folder}: cannot be made, since {above} is not a folder that can be written to.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{folder}: the output folder is in use. Take another one, or pass --overwrite.")
    if not (folder / marker).is_file():
        raise InputError(
            f"{folder}: not a folder that {command} wrote, so --overwrite leaves it alone. Remove it yourself."
        )


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file (UTF-8) beside its place, puts it on the disk and renames it: it is never half there."""
    path = Path(path)
    temporary = path.with_name(f".saving-{path.name}-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """
    Gives an empty folder to write into; it takes the place of `folder` when the block ends without an error.

    Args:
        folder (`Path`): Where to, checked with [`check_output`]; what stands there is replaced.

    Raises:
        `InputError`: if another process writes that folder.
    """
    with WriterLock(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        new, old = unfinished / "new", unfinished / "old"
        try:
            new.mkdir()
            yield new
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
