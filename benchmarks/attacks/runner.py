"""Starts commands and recipes in forked or fresh processes, and keeps what they print."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240.0  # time limit of an attacked command


@dataclass
class Ended:
    """
    How a process ended.

    Args:
        code (`int`): Exit code as in a shell: 128 plus the signal's number if a signal ended it.
        out, err (`str`): Output on stdout and stderr.
        seconds (`float`): How long it ran.
        left (`list[str]`): Command lines of processes that it left behind.
    """

    code: int
    out: str
    err: str
    seconds: float
    left: list[str] = field(default_factory=list)


class Started:
    """A process started by [`Runner`], in a session of its own."""

    def __init__(self, printed: Path):
        self.printed, self.begin = printed, time.monotonic()
        self.pid = 0
        self.ended: queue.Queue[int] = queue.Queue()

    def send(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to the process, or to its whole group, as Ctrl-C in a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, seconds: float = SECONDS) -> Ended:
        """Waits for the process to end. If it takes too long, it is killed, and the exit code is -1."""
        try:
            code = self.ended.get(timeout=seconds)
        except queue.Empty:
            code = -1
        taken = time.monotonic() - self.begin
        left = self._remove_left()
        text = [
            path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            for path in (Path(f"{self.printed}.out"), Path(f"{self.printed}.err"))
        ]
        return Ended(128 - code if code < -1 else code, *text, taken, left)

    def _remove_left(self) -> list[str]:
        """Kills processes left in the session after a short grace period; returns their command lines."""
        for _ in range(20):
            found = [process for process in psutil.process_iter() if _session(process) == self.pid]
            if not found:
                return []
            time.sleep(0.1)
        names = []
        for process in found:
            try:
                names.append(" ".join(process.cmdline())[-120:])
                process.kill()
            except psutil.Error:
                pass
        return names


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else 0
    except (OSError, psutil.Error):
        return 0


class Runner:
    """
    Starts processes.

    Args:
        work (`Path`): Folder for what they print.
        environment (`dict[str, str]`): Environment variables for all of them, added to those of this process.
    """

    def __init__(self, work: Path, environment: dict[str, str]):
        self.work, self.numbers = work, itertools.count(1)
        paths = [str(ROOT / "benchmarks"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        # The study's launch looks up `accelerate`.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        given = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "PATH": path,
            **environment,
        }
        self.environment = os.environ | given
        self.started: dict[int, Started] = {}
        self.server: subprocess.Popen | None = None
        self.ready = threading.Event()

    def _serve(self) -> subprocess.Popen:
        if self.server is None:
            command = [sys.executable, str(ROOT / "benchmarks" / "attacks" / "worker.py")]
            log = (self.work / "server.err").open("ab")
            self.server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self.environment, cwd=ROOT
            )
            threading.Thread(target=self._listen, daemon=True).start()
        if not self.ready.wait(180):
            sys.exit(f"the forking process did not start: {(self.work / 'server.err').read_text()}")
        return self.server

    def _listen(self) -> None:
        for line in self.server.stdout:
            if not line.startswith(b"{"):  # printed by a library during import
                continue
            told = json.loads(line)
            if "ready" in told:
                self.ready.set()
            elif "pid" in told:
                self.started[told["number"]].pid = told["pid"]
            else:
                self.started[told["number"]].ended.put(told["code"])

    def fork(self, argv: list[str], hook: dict[str, Any] | None = None, **env: str) -> Started:
        """Starts a command (`rm-toolkit …`) or a recipe (`….py …`) in a forked process."""
        server = self._serve()
        number = next(self.numbers)
        started = self.started[number] = Started(self.work / f"printed-{number}")
        request = {"number": number, "argv": argv, "env": env, "out": str(started.printed), "hook": hook}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        while not started.pid:
            time.sleep(0.001)
        return started

    def spawn(self, argv: list[str], **env: str) -> Started:
        """Starts a command or a recipe in a fresh process, as a shell does."""
        started = Started(self.work / f"printed-{next(self.numbers)}")
        words = (
            [sys.executable, *argv]
            if argv[0].endswith(".py")
            else [str(Path(sys.executable).parent / argv[0]), *argv[1:]]
        )
        out, err = (open(f"{started.printed}.{name}", "wb") for name in ("out", "err"))  # noqa: SIM115
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=self.environment | env,
            cwd=ROOT,
            start_new_session=True,
            # If a shell started this process in the background, it ignores Ctrl-C, and children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.pid = process.pid
        threading.Thread(target=lambda: started.ended.put(process.wait()), daemon=True).start()
        return started

    def run(self, argv: list[str], hook: dict[str, Any] | None = None, **env: str) -> Ended:
        """Runs a command or a recipe in a forked process until it ends."""
        return self.fork(argv, hook, **env).wait()

    def close(self) -> None:
        """Ends the forking process."""
        if self.server is not None:
            self.server.stdin.close()
            self.server.wait(20)
