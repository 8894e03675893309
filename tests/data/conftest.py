import gzip
import json
import logging
from pathlib import Path

import pytest


SHARED = Path(__file__).parents[2].parent / "shared" / "data"
DOMAINS = ("academy", "business", "entertainment", "literature", "normal")


@pytest.fixture(autouse=True, scope="session")
def data_cache(tmp_path_factory):
    """Gives `datasets` a cache that is removed after the session, and turns off its progress bars."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets_cache")
    datasets.disable_progress_bars()
    yield
    datasets.config.HF_DATASETS_CACHE = before
    datasets.enable_progress_bars()


@pytest.fixture(autouse=True)
def library_log_is_caught(caplog):
    caplog.set_level(logging.INFO, logger="rm_toolkit")


@pytest.fixture
def published():
    """Folder of the published data beside the checkout, if there is one; it is never copied into the project."""
    if not (SHARED / "published").is_dir():
        pytest.skip(f"the published data is not at {SHARED}")
    return SHARED


@pytest.fixture
def write(tmp_path):
    """`write(name, content)`: writes a list as a JSON array or, by the name, JSON Lines; text and bytes unchanged."""

    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            lines = ".jsonl" in name
            content = "\n".join(map(json.dumps, content)) + "\n" if lines else json.dumps(content)
        if isinstance(content, str):
            content = content.encode("utf-8")
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    return write_file


@pytest.fixture
def dsp_items():
    """`dsp_items(n)`: n queries with five different answers each."""

    def make(number):
        return [
            {"query": f"Question {n}?", "responses": {name: f"{name} answers {n}." for name in DOMAINS}}
            for n in range(number)
        ]

    return make
