"""Who holds an output, as its lock file says, and when it last showed that it lives."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, one_line
from .redaction import redact


KIND = "rm_toolkit lock"
STALE_SECONDS = 600.0


@dataclass(frozen=True)
class Holder:
    """
    Who holds an output, as the lock file says.

    Args:
        host (`str`): Name of the computer.
        machine (`str`): What all containers on one computer share until it is started again; else the host's name.
        pid (`int`): Process.
        command (`str`): Its command line.
        since (`str`): When it began, ISO 8601.
    """

    host: str
    machine: str
    pid: int
    command: str
    since: str

    @property
    def is_here(self) -> bool:
        """Whether that process is, or was, on this computer, so that a lock of the operating system tells all."""
        return self.host == platform.node() or self.machine == machine()


def read_holder(path: Path) -> Holder | None:
    """
    Returns who a lock file names; `None` where there is none, or nobody has written a name into it yet.

    Raises:
        `InputError`: if the file is something else.
    """
    try:
        content = path.read_bytes().strip(b"\0")  # zeros: the power was cut before the name was on the disk
    except FileNotFoundError:
        return None
    if not content:
        return None
    try:
        values = json.loads(content)
        if values.pop("kind") == KIND:
            return Holder(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise InputError(f"{path} is needed as a lock file, but was not written by rm_toolkit. Move it away.")


def describe_holder(path: Path, output: Path, age: float | None = None) -> str:
    """Says who is writing an output, and what to do; with the `age` of the last sign of life from another host."""
    holder = None
    for _ in range(10):  # a holder that has just taken it writes its name in a moment
        if (holder := read_holder(path)) is not None:
            break
        time.sleep(0.05)
    if holder is None:
        return f"{output} is being written by another process. Wait for it, or end it."
    text = (
        f"{output} is being written by process {holder.pid} on host {holder.host} since {holder.since} "
        f"(`{one_line(holder.command, 100)}`). Wait for it, or end it."
    )
    if age is not None and not holder.is_here:
        text += (
            f" Its last sign of life is {max(0.0, age):.0f} s old; without one it counts as ended after "
            f"{STALE_SECONDS / 60:.0f} minutes, or when {path} is removed."
        )
    return text


def heartbeat_age(path: Path) -> float:
    """Seconds since a lock file was touched, by the clock of its file system: hosts may differ by minutes."""
    touched = path.stat().st_mtime
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - touched
    return time.time() - touched


def living_holder(path: Path) -> Holder | None:
    """
    Returns who holds an output now, as far as its lock file shows; nothing is locked, made or touched.

    Args:
        path (`Path`): The lock file.
    """
    try:
        holder = read_holder(path)
        if holder is None or (holder.is_here and not is_alive(holder.pid)):
            return None
        return holder if holder.is_here or time.time() - path.stat().st_mtime < STALE_SECONDS else None
    except (OSError, InputError):
        return None


def is_alive(pid: int) -> bool:
    """Whether there is a process of that number on this computer."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def machine() -> str:
    """Returns what all containers on this computer share until it is started again; else the host's name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def this_process() -> Holder:
    """Returns the holder that this process is."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return Holder(platform.node(), machine(), os.getpid(), redact(command), since)
