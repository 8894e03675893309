"""Signals to one or all processes of a run of several."""

from __future__ import annotations

import contextlib
import os
import signal
import time


HOWS = {"SIGKILL": None, "SIGTERM": 143, "SIGINT": 130, "SIGSTOP": 0}  # signal -> exit code of the processes
SECONDS_STOPPED = 3.0
SAID = ("error: ", "stopped by ", "Stopped by ")


def attack(pids: list[int], rank: int, how: str) -> None:
    """
    Sends a signal to one process of a run, or SIGINT to all of them as a terminal does; a stopped one continues later.

    Args:
        pids (`list[int]`): Its processes, by rank.
        rank (`int`): The one.
        how (`str`): Name of the signal.
    """
    for pid in pids if how == "SIGINT" else [pids[rank]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, how))
            if how == "SIGSTOP":
                time.sleep(SECONDS_STOPPED)
                os.kill(pid, signal.SIGCONT)
