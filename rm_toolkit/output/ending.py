"""How a command or a recipe ends early: a mistake, a full disk, a signal or a bug gives one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import InputError, class_and_line, one_line
from .places import full_place, is_full
from .process_files import remove_own_files
from .redaction import redact
from .stop_signals import Terminated, raised_by


FAULT, MISTAKE = 1, 2
INTERRUPTED, TERMINATED, BROKEN_PIPE = (
    128 + int(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
)
_NO_ROOM = "Make room, or write to a folder on another disk; what was there before is unchanged."
_NO_RIGHT = "Change its rights, or name another path."
_STORAGE = {
    errno.ENOSPC: ("the disk is full", _NO_ROOM),
    errno.EDQUOT: ("your quota on this disk is used up", _NO_ROOM),
    errno.EFBIG: ("the file would be larger than this system allows", _NO_ROOM),
    errno.EROFS: ("its file system is read-only", "Name a path on another one."),
    errno.EACCES: ("permission denied", _NO_RIGHT),
    errno.EPERM: ("permission denied", _NO_RIGHT),
    errno.ENAMETOOLONG: ("its name is too long", "Name a shorter path."),
    errno.EIO: ("the disk reports an error", "Check the disk, then start again."),
    errno.EMFILE: ("too many files are open", "Raise the limit (`ulimit -n`)."),
}
# Messages of libraries not written in Python for the same errors.
_IN_WORDS = {
    "No space left on device": errno.ENOSPC,
    "Not enough disk space": errno.ENOSPC,  # datasets checks before it writes
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
    "Permission denied": errno.EACCES,
    "File name too long": errno.ENAMETOOLONG,
}
# Messages of the backends of `torch.distributed` when another process has ended.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
    "Socket Timeout",
    "wait timeout",
    "failed to recv",
    "failed to send",
    "remote process exited",
    "collective operation timeout",
)
_QUOTED_PATH = re.compile(r"['\"`](/[^'\"`]+)['\"`]")


@dataclass(frozen=True)
class Ending:
    """
    What an exception means to the user of the command.

    Args:
        code (`int`): The exit code.
        message (`str`, *optional*): The message to print; `None` if it has been printed.
    """

    code: int
    message: str | None


def stopped(signal_number: int, hint: str | None) -> BaseException:
    """
    Returns the exception that ends a command after a signal.

    Args:
        signal_number (`int`): SIGINT or SIGTERM.
        hint (`str`, *optional*): What to do next; `None` if that has been printed already.
    """
    error = raised_by(signal_number)
    error.hint = hint  # type: ignore[attr-defined]
    return error


@contextlib.contextmanager
def hint_if_stopped(hint: str) -> Iterator[None]:
    """
    A context that adds a hint on how to continue if it is left by Ctrl-C or SIGTERM.

    Args:
        hint (`str`): One sentence.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.hint = hint  # type: ignore[union-attr]
        raise


def ending_of(error: BaseException) -> Ending:
    """
    Returns how a command ends after an uncaught exception.

    Args:
        error (`BaseException`): Any but `SystemExit`. For a bug in the toolkit, its traceback is written to a
            file, or to stderr if no file can be written.
    """
    remove_own_files()
    if isinstance(error, InputError):
        return Ending(MISTAKE, f"error: {redact(str(error))}")
    if isinstance(error, KeyboardInterrupt):
        by, code = ("SIGTERM", TERMINATED) if isinstance(error, Terminated) else ("Ctrl-C", INTERRUPTED)
        hint = getattr(error, "hint", "No partial output is left.")
        return Ending(code, None if hint is None else f"stopped by {by}. {hint}")
    if isinstance(error, BrokenPipeError):
        forget_stdout()
        return Ending(BROKEN_PIPE, None)
    storage = storage_error(error)
    if storage is not None:
        return Ending(MISTAKE, f"error: {storage}")
    if is_lost_process(error):
        said = one_line(redact(class_and_line(error, 200)))
        return Ending(
            FAULT,
            f"error: another process of this run has ended or does not answer ({said}), so this one ends too. See its "
            "message for the reason. Resume with --resume_from_checkpoint auto.",
        )
    where = _written(redact("".join(traceback.format_exception(error))))
    said = one_line(redact(class_and_line(error, 300)))
    return Ending(
        FAULT, f"error: {said} (unexpected). The full traceback is in {where}; please report it with that file."
    )


def is_lost_process(error: BaseException) -> bool:
    """Whether an exception means that another process of the run has ended; that process's message says more."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError | ConnectionError) and any(words in str(cause) for words in _LOST):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def storage_error(error: BaseException) -> str | None:
    """
    Returns what is wrong with a disk or a path, and what to do; `None` for other exceptions.

    Args:
        error (`BaseException`): As raised by Python or by any library, or raised because of such an exception.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        number = cause.errno if isinstance(cause, OSError) and cause.errno in _STORAGE else None
        text = str(cause)
        number = number or next((known for words, known in _IN_WORDS.items() if words in text), None)
        if number is not None:
            what, remedy = _STORAGE[number]
            named = getattr(cause, "filename2", None) or getattr(cause, "filename", None)
            if isinstance(cause, shutil.Error):  # for each file of a folder: source, target, reason
                named = next((to for _, to, _ in cause.args[0]), None) if isinstance(cause.args[0], list) else named
            quoted = _QUOTED_PATH.search(text)
            path = named if isinstance(named, str | os.PathLike) else quoted[1] if quoted else _place(error)
            if path is None:  # pyarrow, for example, does not name the file
                return redact(f"{what} ({one_line(class_and_line(cause, 200))}). {remedy}")
            return redact(f"{one_line(os.fspath(path), 300)}: {what}. {remedy}")
        cause = cause.__cause__ or cause.__context__
    return None


def _place(error: BaseException) -> str | None:
    """What was being written when an exception was raised, if it does not say so itself."""
    place, cause = None, error
    while cause is not None:
        place = getattr(cause, "place", None) or place  # the innermost is the most precise
        cause = cause.__cause__ or cause.__context__
    if place is not None and is_full(place):
        return place
    return full_place() or place  # such as a cache that is written to on the way


def _written(text: str) -> str:
    try:
        descriptor, path = tempfile.mkstemp(prefix="rm-toolkit-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return path
    except OSError:
        print(text, file=sys.stderr)
        return "the lines above"


def forget_stdout() -> None:
    """Drops a standard output that cannot be written; Python would report it again when it flushes at exit."""
    try:
        sys.stdout.flush()
        return
    except (OSError, ValueError):
        pass
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
