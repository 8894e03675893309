"""What Ctrl-C and SIGTERM do to a command or a recipe: an exception in its main thread, while there is work to be stopped."""

from __future__ import annotations

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
def terminable() -> Iterator[None]:
    """
    Within it SIGTERM raises [`Terminated`] as Ctrl-C raises `KeyboardInterrupt`; whatever error that leads to counts as it.

    Not in one of several processes: a handler has to wait for the collective call that the process is in, which may
    never return.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _Signals() as signals:
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

    def __init__(self) -> None:
        self.received, self.when, self.swallowed = 0, 0.0, False
        self.owner = os.getpid()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup`, or a shell that keeps Ctrl-C from it
                self.before[number] = signal.signal(number, self.handle)
        self.hook_before, sys.unraisablehook = sys.unraisablehook, self.raise_again
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self.hook_before
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.owner:  # a process that this one has forked ends without a word
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if self.received and not self.swallowed and now - self.when < SECONDS_OF_ONE_SIGNAL:
            return
        self.received, self.when, self.swallowed = number, now, False
        raise raised_by(number)

    def raise_again(self, unraisable: Any) -> None:
        """Where Python can raise nothing (when it removes an object, say) the signal comes once more, a moment later."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self.hook_before(unraisable)
        elif os.getpid() == self.owner:
            self.swallowed = True
            again = threading.Timer(0.01, os.kill, (self.owner, self.received))
            again.daemon = True
            again.start()
