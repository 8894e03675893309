"""Injects a fault into an attacked process at the n-th change that it makes to files below some folders."""

from __future__ import annotations

import atexit
import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


# Python audit events that change a disk -> positions of the arguments that may be the changed path.
CHANGES = {
    "open": (0,),
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Hook:
    """
    Counts changes to the disk, and at one of them sends a signal to this process or raises an `OSError`.

    Args:
        folders (`list[str]`): Only changes below these count.
        at (`int`): Number of the change, from 1; with 0, changes are only counted.
        signal (`str`, *optional*): Name of the signal to send at that change.
        error (`str`, *optional*): Name of the error to raise at that and every later change, such as `ENOSPC`.
        at_exit (`str`, *optional*): Name of the signal to send when the interpreter exits.
        counted (`str`, *optional*): File that gets a line with event and path for each change.
    """

    def __init__(
        self,
        folders: list[str],
        at: int = 0,
        signal: str | None = None,
        error: str | None = None,
        counted: str | None = None,
        at_exit: str | None = None,
    ):
        self.folders, self.at, self.signal, self.error = tuple(folders), at, signal, error
        self.at_exit = at_exit
        self.changes: list[str] = []
        self.owner, self.busy = os.getpid(), False
        self.log = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if counted else None

    def install(self) -> None:
        sys.addaudithook(self._audit)
        if self.at_exit:  # registered first, called last
            atexit.register(os.kill, os.getpid(), getattr(signal, self.at_exit))
        sync = os.fsync

        def fsync(descriptor: Any) -> None:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            self._count("os.fsync", os.readlink(f"/proc/self/fd/{number}"))
            sync(descriptor)

        os.fsync = fsync

    def _audit(self, event: str, arguments: tuple) -> None:
        positions = CHANGES.get(event)
        if positions is None or self.busy:
            return
        if event == "open" and not self._writes(arguments):
            return
        for position in positions:
            path = arguments[position]
            if isinstance(path, str | bytes | os.PathLike):
                self._count(event, os.path.abspath(os.fsdecode(path)))
                return

    @staticmethod
    def _writes(arguments: tuple) -> bool:
        mode, flags = arguments[1], arguments[2]
        return (
            bool(flags & WRITING)
            if isinstance(flags, int)
            else isinstance(mode, str) and any(c in mode for c in "wax+")
        )

    def _count(self, event: str, path: str) -> None:
        if not path.startswith(self.folders) or os.getpid() != self.owner:
            return
        self.changes.append(path)
        self.busy = True
        try:
            if self.log is not None:
                os.write(self.log, (json.dumps([event, path]) + "\n").encode())
            if not self.at or len(self.changes) < self.at:
                return
            if self.signal and len(self.changes) == self.at:
                os.kill(os.getpid(), getattr(signal, self.signal))
            if self.error:
                number = getattr(errno, self.error)
                raise OSError(number, os.strerror(number), path)
        finally:
            self.busy = False


def read_changes(path: Path) -> list[tuple[str, str]]:
    """Reads the changes that a hook counted, as (event, path) in order."""
    return [tuple(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
