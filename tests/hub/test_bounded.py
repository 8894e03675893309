"""A misbehaving Hub is given up, in whatever way it misbehaves; the clients are otherwise unchanged."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import _http

from rm_toolkit.models import hub_client
from rm_toolkit.models.load_errors import config_error


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


def test_a_hub_without_a_connection_is_given_up_soon_in_one_line(bounded, monkeypatch, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"  # refused: nothing listens there
    waited = []
    monkeypatch.setattr(hub_client.time, "sleep", waited.append)
    monkeypatch.setattr(hub_client, "_unreachable", {})
    monkeypatch.setattr(hub_client, "_answered", set())
    for url in (address, address, "http://nowhere.invalid"):
        with pytest.raises(hub_client.HubUnreachable, match="cannot be reached"):
            _http.http_backoff("HEAD", f"{url}/someone/model/resolve/main/config.json")
    assert waited == [1.0, 2.0] * 2  # once for each server
    assert not caplog.records
    hub_client._answered.add(address.removeprefix("http://"))  # once it has answered, the library's own retries apply
    hub_client._unreachable.clear()
    with pytest.raises(_http.httpx2.ConnectError):
        _http.http_backoff("GET", address, max_retries=1)
    error = OSError(f"We couldn't connect to '{address}' to load the files")
    said = config_error("someone/model", error)
    assert "the Hub cannot be reached for it" in said and "safetensors" not in said


def test_a_push_works_through_it(hub, bounded, monkeypatch):
    monkeypatch.setattr(hub_client, "SECONDS", 30.0)
    HfApi().create_repo("someone/model")
    HfApi().upload_file(path_or_fileobj=b"x" * 1000, path_in_repo="a.txt", repo_id="someone/model")
    assert Path(HfApi().hf_hub_download("someone/model", "a.txt")).read_bytes() == b"x" * 1000
