"""
A process for each side, because Liger patches classes for the whole process and because memory is counted per process.

The processes of a part start at once and import at the same time. Then each waits for its jobs, so that repeats can be
interleaved without importing everything again. One that waits for its first job has not touched the GPU; later, it
holds a CUDA context, but no memory of earlier runs.

Nothing slow is imported here, so that processes can be started before this one has imported anything itself.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
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


@dataclass
class Worker:
    """
    A process that runs jobs.

    Args:
        process (`Process`): The process.
        connection (`Connection`): Where it takes jobs and answers.
        imported (`float`, *optional*): Seconds that its imports took; `None` until its first job.
    """

    process: Any
    connection: Connection
    imported: float | None = None


class Workers:
    """
    Runs jobs, those of each side in a process of its own. As a context manager, it ends the processes on exit and can
    be used again, for the next part.

    Args:
        in_process (`bool`): Whether to run jobs in this process instead (for tests on a CPU).
    """

    def __init__(self, in_process: bool = False):
        self.in_process, self.threads = in_process, 1
        self.deadline = Deadline(float("inf"))
        self._spare: list[Worker] = []
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: Any) -> None:
        for name in list(self._workers):
            self.end(name)
        while self._spare:
            _stop(self._spare.pop())

    def start(self, number: int, threads: int) -> None:
        """
        Starts processes until `number` are without a side. They import at the same time, and the first side may
        already run while the others still do.

        Args:
            number (`int`): Number of processes, one per side.
            threads (`int`): CPU threads of each of them.
        """
        self.threads = threads
        while not self.in_process and len(self._spare) < number:
            self._spare.append(_start(threads))

    def run(self, side: Side, job: Any, call: str = "speed.gpu.runs:run") -> dict[str, Any]:
        """
        Runs a job of a side. In the answer to the first job of a side, `imports` are the seconds for which this
        process waited until the side's process was ready.

        Raises:
            `TimeRanOut`: if the part's time is up; the worker is then ended.
            `Failed`: if the job raised an error.
        """
        if self.deadline.left() <= 0:
            raise TimeRanOut("the part's time is up")
        if self.in_process:
            return _answer(call, side, job)
        if side.name in self._workers:
            return self._ask(side.name, (call, side, job))
        self._workers[side.name] = worker = self._spare.pop(0) if self._spare else _start(self.threads)
        began = time.monotonic()
        worker.imported = self._receive(side.name)["imported"]
        waited = time.monotonic() - began
        if hasattr(job, "started"):  # as if the process had not waited for its turn
            job = replace(job, started=time.time() - worker.imported)
        return {**self._ask(side.name, (call, side, job)), "imports": waited}

    def _ask(self, name: str, message: tuple[str, Side, Any]) -> dict[str, Any]:
        with contextlib.suppress(OSError):  # it has ended, which is found below
            self._workers[name].connection.send(message)
        return self._receive(name)

    def _receive(self, name: str) -> dict[str, Any]:
        worker = self._workers[name]
        if not worker.connection.poll(max(min(self.deadline.left(), 1e6), 0)):
            self.end(name)
            raise TimeRanOut("the part's time is up")
        try:
            kind, value = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join(5)
            del self._workers[name]
            raise Failed(f"its process ended with exit code {worker.process.exitcode}") from None
        if kind == "error":
            raise Failed(value)
        return value

    def end(self, name: str) -> None:
        """Ends the process of a side, if it has one."""
        if name in self._workers:
            _stop(self._workers.pop(name), patience=2)


def _start(threads: int) -> Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    # Not a daemon: daemons may not start the children that compilation needs. It ends when this pipe closes.
    process = context.Process(target=_serve, args=(there, threads))
    process.start()
    there.close()
    return Worker(process, here)


def _stop(worker: Worker, patience: float = 0) -> None:
    worker.connection.close()
    worker.process.join(patience)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _serve(connection: Connection, threads: int) -> None:
    began = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    warnings.filterwarnings("ignore")
    quiet(threads)
    importlib.import_module("speed.gpu.runs")  # with it TRL, this toolkit and what they need
    with contextlib.suppress(Exception):  # TRL's trainer would import it in its first run
        importlib.import_module("deepspeed")
    import torch

    if torch.cuda.is_initialized():
        print("  a library took a part of the GPU's memory as it was imported", file=sys.stderr, flush=True)
    connection.send(("done", {"imported": time.monotonic() - began}))
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
    # Liger warns of each kernel of another backend that it cannot import; it falls back to Triton's.
    logging.getLogger("liger_kernel").setLevel(logging.ERROR)
    datasets.disable_caching()
    datasets.disable_progress_bars()


def _answer(call: str, side: Side, job: Any) -> dict[str, Any]:
    module, name = call.split(":")
    return getattr(importlib.import_module(module), name)(side, job)
