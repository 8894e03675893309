"""
One writer per output: a second one is told who holds it, before anything is read.

Uses a lock of the operating system on a small file beside the output (`.NAME.rm_toolkit.lock`) that names its holder.
The lock ends with its process. Locks do not reach every host that shares a file system, so the holder also touches the
file once a minute: on another host, a lock that was not touched for ten minutes is stale.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import errno
import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .console import console
from .holder import KIND, STALE_SECONDS, Holder, describe_holder, heartbeat_age, read_holder, this_process
from .temporary import remove_left


try:
    import fcntl
except ImportError:  # Windows: the file's age and its process decide
    fcntl = None

# filelock would give the same lock, but its older versions truncate the file, which could then not name the holder.
LOCK_NAME = ".rm_toolkit.lock"
SECONDS_BETWEEN_BEATS = 60.0
SECONDS_TO_SETTLE = 0.2
MAX_TRIES = 1000
NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


class OutputHeld(InputError):
    """Another process writes the output; the message names it."""


class WriterLock:
    """
    Holds an output until [`release`], or until the process ends. The same process may take it again.

    Args:
        output (`str` or `os.PathLike`): The file or folder to write; it need not exist.
        alone (`bool`): Whether a second holder in this process is refused too.
        wait (`float`): Seconds to wait for another holder.

    Raises:
        `OutputHeld`: naming the holder.
        `InputError`: if a lock file cannot be created there.
    """

    def __init__(self, output: str | os.PathLike, *, alone: bool = False, wait: float = 0.0):
        self.output = Path(output)
        self.alone = alone
        deadline = time.monotonic() + wait
        while True:
            try:
                self._file = _take(self.output, alone)
                return
            except OutputHeld:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)

    def release(self) -> None:
        """Releases the output; does nothing the second time."""
        held, self._file = self._file, None
        if held is not None:
            _give_back(held, self.alone)

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass
class _LockFile:
    """The open lock file of an output that this process holds, once for all of its [`WriterLock`]s."""

    path: Path
    output: Path
    descriptor: int
    holder: Holder
    made: list[Path]  # folders above it that were made for it
    count: int = 0
    alone: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Shows other hosts that the holder is alive; reports once if another one has taken over."""
        while not self.ended.wait(SECONDS_BETWEEN_BEATS):
            with contextlib.suppress(OSError, InputError):
                other = read_holder(self.path)
                if other == self.holder:
                    os.utime(self.path)
                elif other is not None:
                    console.print(
                        f"warning: {self.output} was taken over by process {other.pid} on host {other.host}. End one of "
                        "the two.",
                    )
                    return


_held: dict[Path, _LockFile] = {}
_guard = threading.RLock()


def lock_path(output: str | os.PathLike) -> Path:
    """Returns the path of the lock file of an output: beside it, or in it if the folder above is not writable."""
    output = Path(os.path.realpath(output))
    if output.is_dir() and not os.access(output.parent, os.W_OK | os.X_OK):
        return output / LOCK_NAME
    return output.parent / f".{output.name}{LOCK_NAME}"


def is_held(output: str | os.PathLike) -> bool:
    """Whether another process is writing an output."""
    try:
        WriterLock(output).release()
    except OutputHeld:
        return True
    return False


def _take(output: Path, alone: bool) -> _LockFile:
    path = lock_path(output)
    with _guard:
        held = _held.get(path)
        if held is not None:
            if alone and held.alone:
                raise OutputHeld(f"{output} is already being written by this process. Wait until that has ended.")
        else:
            held = _held[path] = _acquire(path, output)
            remove_left(Path(os.path.realpath(output)))
            threading.Thread(target=held.beat, name=f"heartbeat of {path.name}", daemon=True).start()
        held.count += 1
        held.alone = held.alone or alone
        return held


def _acquire(path: Path, output: Path) -> _LockFile:
    made: list[Path] = []
    for _ in range(MAX_TRIES):
        descriptor = _open(path, output, made)
        locked: bool | None = False
        try:
            locked = _try_lock(descriptor)
            if locked is not False and not _is_at(path, descriptor):
                os.close(descriptor)  # its last holder has removed it meanwhile
                continue
            _check_free(path, output, locked)
            holder = this_process()
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"kind": KIND, **dataclasses.asdict(holder)}).encode())
            if locked is None:  # without locks, two processes may get here: the last writer has the lock
                time.sleep(SECONDS_TO_SETTLE)
                if read_holder(path) != holder:
                    raise OutputHeld(describe_holder(path, output))
            return _LockFile(path, output, descriptor, holder, made)
        except BaseException as error:
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_size == 0 and _is_at(path, descriptor) and locked:
                    path.unlink()  # no space for the name in it
            with contextlib.suppress(OSError):
                os.close(descriptor)
            _remove_empty(made)
            if isinstance(error, OSError):
                raise _unusable(path, output, error) from error
            raise
    raise OutputHeld(describe_holder(path, output))


def _open(path: Path, output: Path, made: list[Path]) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    for _ in range(MAX_TRIES):
        try:
            made[:0] = [folder for folder in path.parents if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            continue  # the process that created the folder has removed it again
        except OSError as error:
            raise _unusable(path, output, error) from error
    raise InputError(f"{output}: its lock file {path} cannot be created. Name another output.")


def _unusable(path: Path, output: Path, error: OSError) -> InputError:
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return InputError(
            f"{output}: cannot be created, because {above} is not a writable folder. Name another output."
        )
    return InputError(
        f"{output}: its lock file {path} cannot be written ({error.strerror}). Make room or remove that file, or name "
        "another output."
    )


def _try_lock(descriptor: int) -> bool | None:
    """Whether this process has the lock now; `None` if there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno in NO_LOCKS_HERE:
            return None
        raise


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _check_free(path: Path, output: Path, locked: bool | None) -> None:
    """Raises [`OutputHeld`] if another process has the output."""
    if locked is False:
        raise OutputHeld(describe_holder(path, output))
    holder = read_holder(path)
    if holder is None or (holder.is_here and locked):
        return
    alive = holder.is_alive
    if alive is False:
        return
    age = heartbeat_age(path)
    if alive or age < STALE_SECONDS:
        raise OutputHeld(describe_holder(path, output, None if alive else age))
    console.print(
        f"warning: {output}: process {holder.pid} on host {holder.host}, which has held it since {holder.since}, has shown "
        f"no sign of life for {age / 60:.0f} minutes; this run takes over.",
    )


def _give_back(held: _LockFile, alone: bool) -> None:
    with _guard:
        if _held.get(held.path) is not held:
            return  # a process that was forked from the holder
        held.count -= 1
        held.alone = held.alone and not alone
        if held.count:
            return
        del _held[held.path]
        held.ended.set()
        # Removed while it is locked: a process that has it open sees that it is gone, and opens a new one.
        with contextlib.suppress(OSError, InputError):
            if _is_at(held.path, held.descriptor) and read_holder(held.path) == held.holder:
                held.path.unlink()
        os.close(held.descriptor)
        _remove_empty(held.made)


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def release_all() -> None:
    """Releases everything that this process holds; called when it ends."""
    with _guard:
        for held in list(_held.values()):
            held.count = 1
            _give_back(held, held.alone)


def _forget_after_fork() -> None:
    """A child holds nothing: the lock is its parent's, and ends with it."""
    global _guard
    _guard = threading.RLock()
    for held in _held.values():
        with contextlib.suppress(OSError):
            os.close(held.descriptor)
    _held.clear()


atexit.register(release_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
