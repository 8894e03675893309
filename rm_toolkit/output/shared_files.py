"""Waits for files that another computer has written into a shared folder, since they become visible a little later."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError


SECONDS_TO_SEE = 60.0  # network file systems cache missing files for about half a minute
SECONDS_BETWEEN_LOOKS = 0.1


def await_files(paths: Iterable[Path]) -> None:
    """
    Waits until files of another process of the run are visible.

    Args:
        paths (`Iterable[Path]`): Paths of the files.

    Raises:
        `InputError`: naming the first that does not appear within a minute.
    """
    waiting = [path for path in paths if not path.exists()]
    end = time.monotonic() + SECONDS_TO_SEE
    while waiting:
        if time.monotonic() > end:
            error = InputError(
                f"{waiting[0]} was written by another process of this run, but is not visible here after "
                f"{SECONDS_TO_SEE:.0f} s. All machines of a run need the same folder: name one on a file system that they "
                "share."
            )
            error.of_one_process = True
            raise error
        time.sleep(SECONDS_BETWEEN_LOOKS)
        for folder in {path.parent for path in waiting}:
            with contextlib.suppress(OSError):  # makes a network file system refresh
                os.listdir(folder)
        waiting = [path for path in waiting if not path.exists()]
