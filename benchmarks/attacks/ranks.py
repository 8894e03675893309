"""Sends signals to one or all processes of a run."""

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
    Sends a signal to one process of a run, or SIGINT to all, as a terminal does. After SIGSTOP, it sends SIGCONT.

    Args:
        pids (`list[int]`): Process ids of the run, by rank.
        rank (`int`): Rank that gets the signal.
        how (`str`): Name of the signal.
    """
    for pid in pids if how == "SIGINT" else [pids[rank]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, how))
            if how == "SIGSTOP":
                time.sleep(SECONDS_STOPPED)
                os.kill(pid, signal.SIGCONT)
