"""A Hub client with timeouts: the Hub's own has none unless a call sets one."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http as hub


SECONDS = 60.0  # of silence; for a small request, the whole time until the end of the answer
MAX_BYTES = 256 << 20  # of an answer that is not a file; enough for a list of a million files
SMALL = 1 << 20  # bytes of a request that is not an upload
PACKING = ("content-encoding", "content-length", "transfer-encoding")


def bound_hub_client() -> None:
    """From now on every Hub request of this process times out; called by commands and recipes."""
    set_client_factory(_factory)


def _factory() -> Any:
    client = hub.default_client_factory()
    library = sys.modules[type(client).__module__.partition(".")[0]]
    client.timeout = library.Timeout(SECONDS, connect=min(10.0, SECONDS))
    client.send = functools.partial(_send, client, library, client.send)
    return client


def _send(
    client: Any, library: Any, send: Callable[..., Any], request: Any, *, stream: bool = False, **how: Any
) -> Any:
    """Sends a request. A file transfer takes the time it needs, if data keeps arriving."""
    try:
        small = int(request.headers.get("content-length", "0")) <= SMALL and "transfer-encoding" not in request.headers
    except ValueError:
        small = False
    if not small:
        return send(request, stream=stream, **how)
    with _alarm(library.ReadTimeout(f"no whole answer within {SECONDS:g} s", request=request)):
        return _answer(library, send, request, stream, how)


@contextlib.contextmanager
def _alarm(error: Exception) -> Iterator[None]:
    """
    Raises an error in the main thread when it takes too long, because a server that sends a byte now and then keeps
    every single wait short. Uses no second thread: the caller may hold locks that the client's hooks need.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:  # someone else's handler
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise error

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _answer(library: Any, send: Callable[..., Any], request: Any, stream: bool, how: dict[str, Any]) -> Any:
    response = send(request, stream=True, **how)
    if stream:
        return response
    end = time.monotonic() + SECONDS
    try:
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if time.monotonic() > end:  # in another thread
                raise library.ReadTimeout(f"no whole answer within {SECONDS:g} s", request=request)
            if len(content) > MAX_BYTES:
                raise library.ReadError(f"its answer has more than {MAX_BYTES >> 20} MiB", request=request)
    finally:
        response.close()
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in PACKING]
    whole = library.Response(
        response.status_code,
        headers=headers,
        content=bytes(content),
        request=response.request,
        history=response.history,
    )
    # A HEAD answer gives the size of a file that it does not send.
    for name in PACKING if request.method == "HEAD" else ():
        if name in response.headers:
            whole.headers[name] = response.headers[name]
    return whole
