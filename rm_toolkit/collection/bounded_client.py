"""A client of an endpoint that waits for an answer no longer than it is told to, and takes no more than fits in memory."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import openai


MAX_BYTES = 32 << 20  # of an answer: a thousand times a long one
PACKING = ("content-encoding", "content-length", "transfer-encoding")
# The library that the client is built on, whichever it is.
httpx = sys.modules[
    next(base.__module__ for base in openai.DefaultAsyncHttpxClient.__mro__ if base.__name__ == "AsyncClient")
]


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """
    The official client's own, with two more bounds: its timeout is that of one wait for bytes, so that a server which
    sends one every second would never be given up.

    Args:
        seconds (`float`): For one try, from the request to the last byte of the answer.
        **options: As of the class that it extends.
    """

    def __init__(self, seconds: float, **options: Any):
        super().__init__(**options)
        self.seconds = seconds

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Sends a request; returns the whole answer."""
        read = request.extensions.get("timeout", {}).get("read")
        seconds = self.seconds if read is None else min(read, self.seconds)
        try:
            return await asyncio.wait_for(self._whole(request, options), seconds)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise httpx.ReadTimeout(f"no whole answer within {seconds:g} s", request=request) from error

    async def _whole(self, request: Any, options: dict[str, Any]) -> Any:
        response = await super().send(request, stream=True, **options)
        try:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    raise httpx.ReadError(f"its answer has more than {MAX_BYTES >> 20} MiB", request=request)
        finally:
            await response.aclose()
        # What was read is not packed any more.
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in PACKING]
        return httpx.Response(response.status_code, headers=headers, content=bytes(content), request=request)
