"""A Hub that does not answer as it should is given up, whatever it does instead; everything else stays as it is."""

from __future__ import annotations

import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import _http

from rm_toolkit.models import hub_client


@pytest.fixture
def bounded(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.setattr(hub_client, "SECONDS", 0.25)
    monkeypatch.setattr(hub_client, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    hub_client.bound_hub_client()
    yield
    huggingface_hub.set_client_factory(_http.default_client_factory)


@pytest.mark.parametrize("manner", ["silent", "drips", "drips its head", "endless", "closes", "half", "garbage"])
def test_every_manner_of_not_answering_has_its_bound(manner, bounded):
    from attacks.silent_server import silent_server

    with silent_server(manner) as address:
        begin = time.monotonic()
        with pytest.raises(_http.httpx2.HTTPError):
            HfApi(endpoint=address, token="hf_x").create_repo("someone/model", exist_ok=True)
        assert time.monotonic() - begin < 5


def test_a_push_works_through_it(hub, bounded, monkeypatch):
    monkeypatch.setattr(hub_client, "SECONDS", 30.0)
    HfApi().create_repo("someone/model")
    HfApi().upload_file(path_or_fileobj=b"x" * 1000, path_in_repo="a.txt", repo_id="someone/model")
    assert Path(HfApi().hf_hub_download("someone/model", "a.txt")).read_bytes() == b"x" * 1000
