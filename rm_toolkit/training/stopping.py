"""How a run is told to stop: SIGTERM and SIGINT become a wish that all processes hear of at the same step."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch


# A terminal and a launcher may both pass on the same Ctrl-C; a second one after this time means it.
SECONDS_TO_INSIST = 3.0
LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")


class RunStopped(SystemExit):
    """The run was told to stop by SIGTERM and has written what it has to write: exit code 143, as the shell counts."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StopSignals:
    """
    A context in which SIGTERM and SIGINT are noted instead of ending the process at once.

    Further SIGTERMs change nothing (a scheduler and a launcher may both send one); a second Ctrl-C after three seconds
    ends the process as usual. Outside the main thread, where Python has no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._when = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.received and now - self._when > SECONDS_TO_INSIST:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._when = number, now

    def stop(self, number: int) -> BaseException:
        """Returns the exception that ends the run after signal `number`."""
        return KeyboardInterrupt() if number == signal.SIGINT else RunStopped()


class StopEvaluation(BaseException):
    """Leaves an evaluation that is in the way of stopping; it is made up for when the run goes on."""


def agree(flags: list[torch.Tensor | float], accelerator: Any) -> list[float]:
    """
    Sums some flags over all processes, so that all of them act at the same step. One transfer to the host.

    Args:
        flags (`list`): Numbers, or scalar tensors on the accelerator's device.
        accelerator (`Accelerator`): That of the run.
    """
    values = torch.stack([torch.as_tensor(flag, dtype=torch.float32, device=accelerator.device) for flag in flags])
    return accelerator.reduce(values, reduction="sum").tolist()


def leave_signals_to_the_run(_: int = 0) -> None:
    """For data-loading processes: a signal to the whole group must not take them from the run before it has stopped."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def end_with_launcher() -> None:
    """
    Asks the kernel for a SIGTERM when the launcher is gone: neither `accelerate launch` with one process nor one that
    is killed outright tells the processes that it has started, and they would go on by themselves for days.
    """
    if not sys.platform.startswith("linux") or not any(name in os.environ for name in LAUNCHER_VARIABLES):
        return
    launcher = os.getppid()
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != launcher:  # gone between the two calls
        os.kill(os.getpid(), signal.SIGTERM)
