"""A client of an endpoint that bounds the time and the size of an answer."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import openai


MAX_BYTES = 32 << 20  # of an answer: a thousand times a long answer
PACKING = ("content-encoding", "content-length", "transfer-encoding")
# The library that the client is built on.
httpx = sys.modules[
    next(base.__module__ for base in openai.DefaultAsyncHttpxClient.__mro__ if base.__name__ == "AsyncClient")
]


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """
    The official client with two more bounds: its own timeout is for one wait for bytes, so a server that sends one
    byte per second would never time out.

    Args:
        seconds (`float`): Limit for one try, from the request to the last byte of the answer.
        ****options: As in the base class.
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
            raise httpx.ReadTimeout(f"no complete answer within {seconds:g} s", request=request) from error

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
        # The content that was read is already decompressed.
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in PACKING]
        return httpx.Response(response.status_code, headers=headers, content=bytes(content), request=request)
