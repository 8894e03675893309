"""`collect` gives up on an endpoint that misbehaves, in whatever way, within the time that was set."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest


pytest.importorskip("openai", reason="collecting needs the extra `collect`")

from rm_toolkit.collection import bounded_client
from rm_toolkit.collection.endpoint import Endpoint, Sampling, Unanswered


KINDS = {
    "silent": "timeout",
    "drips": "timeout",
    "drips its head": "timeout",
    "endless": "connection",
    "closes": "connection",
    "half": "connection",
    "garbage": "connection",
}


@pytest.mark.parametrize("manner", KINDS)
def test_every_manner_of_not_answering_has_its_bound(manner, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.setattr(bounded_client, "MAX_BYTES", 1 << 20)
    from attacks.silent_server import MANNERS, silent_server

    assert set(KINDS) == set(MANNERS)
    with silent_server(manner) as address:

        async def ask():
            endpoint = Endpoint(f"{address}/v1", Sampling("x"), timeout=0.25, max_retries=0)
            try:
                return await endpoint.ask("key", "law", "Lawyer.", "Why?")
            finally:
                await endpoint.close()

        begin = time.monotonic()
        with pytest.raises(Unanswered) as caught:
            asyncio.run(ask())
    assert caught.value.kind == KINDS[manner] and time.monotonic() - begin < 2
    if manner == "endless":
        assert "its answer has more than 1 MiB" in str(caught.value)
