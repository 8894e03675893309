"""What Ctrl-C and SIGTERM do to a command or a recipe: an exception in its main thread, while there is work to be stopped."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any


SECONDS_OF_ONE_SIGNAL = 1.0  # a terminal and a launcher may both pass on the same Ctrl-C


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: raised in the main thread, so that what is half-written is removed as after Ctrl-C."""


@contextlib.contextmanager
def terminable(*, to_the_end: bool = False) -> Iterator[None]:
    """
    Within it SIGTERM raises [`Terminated`] as Ctrl-C raises `KeyboardInterrupt`; whatever error that leads to counts as it.

    Not in one of several processes: a handler has to wait for the collective call that the process is in, which may
    never return.

    Args:
        to_the_end (`bool`): For what is the whole work of a process. Neither signal changes anything once it is left:
            all is written, or why not is about to be said, and what Python and the libraries do until the process is gone
            would only make a traceback of it. A process that does not go ends at the second.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _Signals(to_the_end) as signals:
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if not signals.received:
                raise
            # A library that is interrupted while it is imported, say, may make an ImportError of it.
            raise raised_by(signals.received) from error


def raised_by(signal_number: int) -> KeyboardInterrupt:
    """Returns what SIGINT or SIGTERM raises."""
    return KeyboardInterrupt() if signal_number == signal.SIGINT else Terminated()


class _Signals:
    """The handlers of [`terminable`]."""

    def __init__(self, to_the_end: bool) -> None:
        self.to_the_end, self.late = to_the_end, 0.0
        self.received, self.when, self.swallowed = 0, 0.0, False
        self.owner = os.getpid()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup`, or a shell that keeps Ctrl-C from it
                self.before[number] = signal.signal(number, self.handle)
        if self.to_the_end:
            atexit.register(self.ignore)  # runs after what libraries register from now on
        self.hook_before, sys.unraisablehook = sys.unraisablehook, self.raise_again
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self.hook_before
        for number, handler in self.before.items():
            signal.signal(number, self.let_go if self.to_the_end else signal.SIG_DFL if handler is None else handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_forked(number):
            return
        now = time.monotonic()
        if self.received and not self.swallowed and now - self.when < SECONDS_OF_ONE_SIGNAL:
            return
        self.received, self.when, self.swallowed = number, now, False
        raise raised_by(number)

    def let_go(self, number: int, frame: FrameType | None) -> None:
        """What a signal does when the work is done."""
        if self.is_forked(number):
            return
        now = time.monotonic()
        if self.late and now - self.late > SECONDS_OF_ONE_SIGNAL:
            os._exit(128 + number)
        self.late = self.late or now

    def ignore(self) -> None:
        """Python restores the handlers of the system as its last act, but keeps what is ignored."""
        if os.getpid() == self.owner:
            for number in self.before:
                signal.signal(number, signal.SIG_IGN)

    def is_forked(self, number: int) -> bool:
        """Whether this is a process that the one of the command has forked, which ends without a word."""
        if os.getpid() == self.owner:
            return False
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return True

    def raise_again(self, unraisable: Any) -> None:
        """Where Python can raise nothing (when it removes an object, say) the signal comes once more, a moment later."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self.hook_before(unraisable)
        elif os.getpid() == self.owner:
            self.swallowed = True
            again = threading.Timer(0.01, os.kill, (self.owner, self.received))
            again.daemon = True
            again.start()
