"""On Ctrl-C and SIGTERM, concurrent work ends where it waits, never in the middle of a write."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from .stop_signals import raised_by


Result = TypeVar("Result")


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """
    Runs a coroutine in its own event loop.

    Raises:
        `KeyboardInterrupt`: after Ctrl-C, or as [`~rm_toolkit.output.stop_signals.Terminated`] after SIGTERM, once the
            work has been cancelled and has cleaned up.
    """
    received: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}

    async def heard() -> Result | None:
        task = asyncio.current_task()

        def stop(number: int) -> None:
            received.append(number)
            if len(received) == 1 and task is not None:
                task.cancel()

        for number in before:
            with contextlib.suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
        try:
            return await work
        except asyncio.CancelledError:
            if not received:
                raise
            return None

    try:
        result = asyncio.run(heard())
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if received:
        raise raised_by(received[0])
    return result  # type: ignore[return-value]
