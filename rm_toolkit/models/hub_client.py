"""A Hub client with timeouts: the Hub's own has none unless a call sets one."""

from __future__ import annotations

import contextlib
import errno
import functools
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from huggingface_hub import set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import _http as hub

from ..errors import first_line


SECONDS = 60.0  # of silence; for a small request, the whole time until the end of the answer
MAX_BYTES = 256 << 20  # of an answer that is not a file; enough for a list of a million files
SMALL = 1 << 20  # bytes of a request that is not an upload
PAUSES = (1.0, 2.0)  # seconds before a server that cannot be reached is asked again; the library's are 23 s and more
REMEMBERED = 60.0  # seconds during which it is not asked again
NO_WAY = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)
PACKING = ("content-encoding", "content-length", "transfer-encoding")


class HubUnreachable(OfflineModeIsEnabled):
    """
    No connection to the server can be made. The library takes this class as it is, and asks its cache; a `ConnectError` it
    would try five times, with a warning each.
    """


_answered: set[str] = set()  # servers that have answered this process: they get the library's longer patience
_unreachable: dict[str, tuple[float, str]] = {}  # when, and why


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
    if request.method not in ("GET", "HEAD"):
        return _within_bounds(library, send, request, stream, how)
    host = request.url.host + (f":{request.url.port}" if request.url.port else "")
    since, why = _unreachable.get(host, (-REMEMBERED, ""))
    if time.monotonic() - since < REMEMBERED:
        raise HubUnreachable(why)
    for pause in (*PAUSES, None):
        try:
            answer = _within_bounds(library, send, request, stream, how)
        except library.ConnectError as error:
            if host in _answered or not _no_way(error):
                raise
            if pause is None:
                _unreachable[host] = time.monotonic(), f"{host} cannot be reached ({first_line(error)})"
                raise HubUnreachable(_unreachable[host][1]) from error
            time.sleep(pause)
        else:
            _answered.add(host)
            return answer


def _no_way(error: BaseException | None) -> bool:
    """Whether no connection can be made here: the name is not known, the connection is refused, there is no network."""
    while error is not None:
        if isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno in NO_WAY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _within_bounds(library: Any, send: Callable[..., Any], request: Any, stream: bool, how: dict[str, Any]) -> Any:
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
