"""
A process for each side, because Liger patches classes for the whole process and because memory is counted per process.

A worker starts once and waits between its runs, so that repeats can be interleaved without importing everything again.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
import warnings
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from .sides import Side


class TimeRanOut(RuntimeError):
    """The time of a part is up."""


class Failed(RuntimeError):
    """A run raised an error; the message is the end of its traceback."""


class Deadline:
    """Time limit of a part, in seconds from now."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


class Workers:
    """
    Runs jobs, those of each side in a process of its own. As a context manager, it ends the processes on exit.

    Args:
        deadline (`Deadline`): When to give up a job that is still running.
        threads (`int`): CPU threads per process.
        in_process (`bool`): Whether to run jobs in this process instead (for tests on a CPU).
    """

    def __init__(self, deadline: Deadline, threads: int, in_process: bool = False):
        self.deadline, self.threads, self.in_process = deadline, threads, in_process
        self._workers: dict[str, tuple[Any, Connection, float]] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: Any) -> None:
        for name in list(self._workers):
            self.end(name)

    def run(self, side: Side, job: Any, call: str = "speed.gpu.runs:run") -> dict[str, Any]:
        """
        Runs a job of a side. The first job of a worker gets the time at which its process started.

        Raises:
            `TimeRanOut`: if the part's time is up; the worker is then ended.
            `Failed`: if the job raised an error.
        """
        if self.deadline.left() <= 0:
            raise TimeRanOut("the part's time is up")
        if self.in_process:
            return _answer(call, side, job)
        first = side.name not in self._workers
        if first:
            self._workers[side.name] = self._start()
        process, connection, started = self._workers[side.name]
        connection.send((call, side, replace(job, started=started) if first and hasattr(job, "started") else job))
        if not connection.poll(max(self.deadline.left(), 0)):
            self.end(side.name)
            raise TimeRanOut("the part's time is up")
        try:
            kind, value = connection.recv()
        except EOFError:
            process.join(5)
            del self._workers[side.name]
            raise Failed(f"its process ended with exit code {process.exitcode}") from None
        if kind == "error":
            raise Failed(value)
        return value

    def end(self, name: str) -> None:
        """Ends the process of a side, if it has one."""
        if name not in self._workers:
            return
        process, connection, _ = self._workers.pop(name)
        connection.close()
        process.join(2)
        if process.is_alive():
            process.kill()
            process.join()

    def _start(self) -> tuple[Any, Connection, float]:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        started = time.time()
        # Not a daemon: daemons may not start the children that compilation needs. It ends when this pipe closes.
        process = context.Process(target=_serve, args=(there, self.threads))
        process.start()
        there.close()
        return process, here, started


def _serve(connection: Connection, threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    warnings.filterwarnings("ignore")
    quiet(threads)
    while True:
        try:
            call, side, job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("done", _answer(call, side, job)))
        except Exception:
            connection.send(("error", "".join(traceback.format_exc().splitlines(keepends=True)[-8:])))


def quiet(threads: int) -> None:
    """Sets the number of threads, and silences progress bars and notes of libraries."""
    import datasets
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    datasets.disable_caching()
    datasets.disable_progress_bars()


def _answer(call: str, side: Side, job: Any) -> dict[str, Any]:
    import importlib

    module, name = call.split(":")
    return getattr(importlib.import_module(module), name)(side, job)
