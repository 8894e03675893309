"""How a run is told to stop: SIGTERM and SIGINT become a request that all processes see at the same step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from ..output.ending import stopped
from ..output.progress import say


# A terminal and a launcher may both forward the same Ctrl-C; after this time it counts as a second one.
SECONDS_TO_INSIST = 3.0
TURNS_BETWEEN_CHECKS = 16  # of an evaluation on several processes
LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")


class RunStopped(SystemExit):
    """The run was told to stop by SIGTERM and has written its checkpoint: exit code 143, as in the shell."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StopSignals:
    """
    A context in which SIGTERM and SIGINT are recorded instead of ending the process at once.

    Further SIGTERMs have no effect (a scheduler and a launcher may both send one); a second Ctrl-C after three seconds
    ends the process as usual. Outside the main thread, where Python has no handlers, it records nothing.
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
        return stopped(signal.SIGINT, None) if number == signal.SIGINT else RunStopped()


class StopEvaluation(BaseException):
    """Ends an evaluation so that the run can stop; the evaluation is repeated when the run resumes."""


def agree(flags: list[torch.Tensor | float], accelerator: Any) -> list[float]:
    """
    Sums flags over all processes, so that all of them act at the same step. One transfer to the host.

    Args:
        flags (`list`): Numbers, or scalar tensors on the accelerator's device.
        accelerator (`Accelerator`): That of the run.
    """
    values = torch.stack([torch.as_tensor(flag, dtype=torch.float32, device=accelerator.device) for flag in flags])
    return accelerator.reduce(values, reduction="sum").tolist()


class Stop:
    """
    Whether a run is to stop: the signal that all of its processes have agreed on, and the work postponed because of
    it.

    Args:
        accelerator (`Accelerator`): Of the run.
    """

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator
        self.signals: StopSignals | None = None  # set within [`listen`]
        self.signal = 0
        self.evaluation_put_off = False

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """A context in which signals are recorded."""
        self.signal, self.evaluation_put_off = 0, False
        with StopSignals() as self.signals:
            try:
                yield
            finally:
                self.signals = None

    @property
    def received(self) -> int:
        """The signal that this process has received, or 0."""
        return self.signals.received if self.signals else 0

    def check_evaluation(self, turn: int) -> None:
        """
        Ends an evaluation inside a run that is told to stop; called by all processes at the same batches.

        Args:
            turn (`int`): Number of the batch.

        Raises:
            `StopEvaluation`: with `signal` set.
        """
        several = self.accelerator.num_processes > 1
        if self.signals is None or (several and turn % TURNS_BETWEEN_CHECKS):
            return
        received = self.received
        if several:
            flags = [float(received == signal.SIGTERM), float(received == signal.SIGINT)]
            terminated, interrupted = agree(flags, self.accelerator)
            received = signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0
        if received:
            self.signal = received
            raise StopEvaluation

    def leave(self, step: int, folder: Path | None) -> NoReturn:
        """
        Ends the run, and prints what to resume from.

        Args:
            step (`int`): Steps done.
            folder (`Path`, *optional*): The checkpoint of that step.
        """
        if self.accelerator.is_main_process:
            name = signal.Signals(self.signal).name
            saved = (
                f"{folder} is complete; resume with --resume_from_checkpoint auto." if folder else "Nothing was saved."
            )
            say(f"Stopped by {name} at step {step}. {saved}")
        raise self.signals.stop(self.signal)


def leave_signals_to_the_run(_: int = 0) -> None:
    """For data-loading processes: a signal to the whole group must not end them before the run has stopped."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def end_with_launcher() -> None:
    """
    Asks the kernel for a SIGTERM when the launcher is gone. `accelerate launch` with one process, or killed by
    SIGKILL, does not tell the processes that it has started, and they would continue alone for days.
    """
    if not sys.platform.startswith("linux") or not any(name in os.environ for name in LAUNCHER_VARIABLES):
        return
    launcher = os.getppid()
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != launcher:  # it ended between the two calls
        os.kill(os.getpid(), signal.SIGTERM)
