"""Who holds an output, according to its lock file, and its last sign of life."""

from __future__ import annotations

import contextlib
import dataclasses
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
    Who holds an output, according to the lock file.

    Args:
        host (`str`): Name of the computer, which says nothing by itself: containers and computers may share one.
        machine (`str`): Boot id, which all containers on one computer share; else the host's name.
        pid (`int`): Process.
        command (`str`): Its command line.
        since (`str`): Its start time, ISO 8601.
        pid_namespace (`int`, *optional*): In which `pid` is a number: that of the container. `None` if it is not known, as
            in lock files of 0.7.0 and earlier.
        started (`int`, *optional*): When the process was started, in ticks since the computer was: another one may get
            its number.
    """

    host: str
    machine: str
    pid: int
    command: str
    since: str
    pid_namespace: int | None = None
    started: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether that process is, or was, on this computer since its start, so that the system's lock tells all."""
        return self.machine == machine()

    @property
    def is_alive(self) -> bool | None:
        """
        Whether that process is running; `None` if it cannot be seen from here: on another computer, in another
        container.
        """
        if not self.is_here or self.pid_namespace is None or self.pid_namespace != pid_namespace():
            return None
        return is_alive(self.pid, self.started)


def read_holder(path: Path) -> Holder | None:
    """
    Returns the holder named in a lock file; `None` if there is no file, or no name in it yet.

    Raises:
        `InputError`: if the file is something else.
    """
    try:
        content = path.read_bytes().strip(b"\0")  # zeros: a power failure before the name was on the disk
    except FileNotFoundError:
        return None
    if not content:
        return None
    try:
        values = json.loads(content)
        if values.pop("kind") == KIND:
            known = {field.name for field in dataclasses.fields(Holder)}
            return Holder(
                **{key: value for key, value in values.items() if key in known}
            )  # a later version may tell more
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise InputError(f"{path} is needed as a lock file, but was not written by rm_toolkit. Move it away.")


def describe_holder(path: Path, output: Path, age: float | None = None) -> str:
    """Says who is writing an output, and what to do; with the `age` of the last sign of life, where that has decided."""
    holder = None
    for _ in range(10):  # a new holder writes its name within a moment
        if (holder := read_holder(path)) is not None:
            break
        time.sleep(0.05)
    if holder is None:
        return f"{output} is being written by another process. Wait for it, or end it."
    text = (
        f"{output} is being written by process {holder.pid} on host {holder.host} since {holder.since} "
        f"(`{one_line(holder.command, 100)}`). Wait for it, or end it."
    )
    if age is not None:
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


def living_holder(path: Path) -> tuple[Holder, float | None] | None:
    """
    Returns who holds an output now, as far as its lock file shows; nothing is locked or changed.

    With a process that cannot be seen from here, on another computer or in another container, come the seconds since its
    last sign of life: without one for ten minutes it counts as ended.

    Args:
        path (`Path`): The lock file.
    """
    try:
        holder = read_holder(path)
        alive = None if holder is None else holder.is_alive
        if holder is None or alive is False:
            return None
        age = None if alive else max(0.0, heartbeat_age(path))
        return (holder, age) if age is None or age < STALE_SECONDS else None
    except (OSError, InputError, TypeError, ValueError):  # also for a file that was changed by hand
        return None


def is_alive(pid: int, started: int | None = None) -> bool:
    """
    Whether there is a process of that number in this container, and it is not one that has only not been buried yet.

    Args:
        pid (`int`): Its number.
        started (`int`, *optional*): What [`start_ticks`] gave for it: a later process of that number is another one.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    state, ticks = _status(pid)
    return state not in ("Z", "X") and (started is None or ticks is None or ticks == started)


def start_ticks(pid: int) -> int | None:
    """Returns when a process was started, in ticks since its computer was; `None` where the system does not say it."""
    return _status(pid)[1]


def _status(pid: int) -> tuple[str | None, int | None]:
    """The state of a process and its start, as Linux tells them."""
    try:  # the name of the program may hold blanks and brackets
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode("ascii"), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None, None


def pid_namespace() -> int | None:
    """Returns in which namespace this process has its number; 0 on systems that have one alone, `None` if it is not told."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def machine() -> str:
    """Returns the boot id, which all containers on this computer share; else the host's name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def this_process() -> Holder:
    """Returns the holder for this process."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    pid = os.getpid()
    return Holder(platform.node(), machine(), pid, redact(command), since, pid_namespace(), start_ticks(pid))
