"""Runs vLLM on loopback with the command that the toolkit prints for the model."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

from rm_toolkit.scoring.serving import find_commands

from .environments import Unavailable


# Options added to the documented command, which change no reward: loopback, little memory, no compilation.
HERE = ["--host", "127.0.0.1", "--gpu-memory-utilization", "0.2", "--enforce-eager"]
VARIABLES = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
START_SECONDS = 900


@contextlib.contextmanager
def serve(folder: str, python: Path, log: Path, *, dtype: str | None = None) -> Iterator[str]:
    """
    Serves a model until the end of the block.

    Args:
        folder (`str`): Folder of the model.
        python (`Path`): Interpreter of vLLM's environment.
        log (`Path`): File for what the server prints.
        dtype (`str`, *optional*): Replaces the dtype of the command.

    Yields:
        `str`: Address of the server.

    Raises:
        `Unavailable`: if it does not start.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = start(folder, python, log, port, dtype=dtype)
    try:
        wait_for(address, server, log)
        yield address
    finally:
        stop(server, signal.SIGTERM)


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(folder: str, python: Path, log: Path, port: int, *, dtype: str | None = None) -> subprocess.Popen:
    """Starts a server on a port, with arguments as in [`serve`], and does not wait for it."""
    words = [str(python.parent / "vllm"), *find_commands(folder)["vllm"].words[1:]]
    if dtype is not None:
        words[words.index("--dtype") + 1] = dtype
    environment = {**os.environ, **VARIABLES}
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as output:
        return subprocess.Popen(
            [*words, *HERE, "--port", str(port)],
            stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


def stop(server: subprocess.Popen, with_signal: int) -> None:
    """Sends a signal to the server's process group and waits until the server has ended; kills it after 30 s."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, with_signal)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """
    Waits until a server is ready.

    Raises:
        `Unavailable`: if it ends, or is not ready in time.
    """
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            lines = log.read_text(errors="replace").splitlines()
            said = [line for line in lines if "Error" in line] or lines or ["nothing"]
            raise Unavailable(f"vLLM ended with code {server.returncode}: {said[-1][-200:]}")
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{address}/health", timeout=5).status_code == 200:
                return
        time.sleep(1)
    raise Unavailable(f"vLLM did not start within {START_SECONDS} s")
