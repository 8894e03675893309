"""A loopback server that accepts every request but does not answer properly."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MANNERS = ("silent", "drips", "drips its head", "endless", "closes", "half", "garbage")


def serve(connection: socket.socket, manner: str, ended: threading.Event) -> None:
    """Misbehaves towards one client until either side ends."""
    with contextlib.suppress(OSError), connection:
        connection.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            connection.recv(1 << 16)
        connection.settimeout(10.0)
        if manner == "silent":
            ended.wait()
        elif manner == "drips":
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
            drip(connection, ended, b" ")
        elif manner == "drips its head":
            connection.sendall(HEAD + b"X: ")
            drip(connection, ended, b"x")
        elif manner == "endless":
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            while not ended.is_set():
                connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        elif manner == "half":
            connection.sendall(HEAD + b'Content-Length: 1000\r\n\r\n{"choices": [')
        elif manner == "garbage":
            connection.sendall(b"\x00\xff" * 500)


def drip(connection: socket.socket, ended: threading.Event, byte: bytes) -> None:
    """Sends ten bytes per second, one at a time."""
    while not ended.is_set():
        connection.sendall(byte)
        time.sleep(0.1)


@contextlib.contextmanager
def silent_server(manner: str) -> Iterator[str]:
    """Runs the server on a free loopback port; yields its address."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=serve, args=(connection, manner, ended), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
