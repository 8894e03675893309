import json

import pytest
import yaml


DOMAINS = {"law": "Lawyer of long standing.", "art": "Artist with a brush.", "sea": "Sailor on a ship."}


@pytest.fixture
def key(monkeypatch):
    """Sets the key of the loopback endpoint where the client looks for it, and no proxy."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return "sk-secret"


@pytest.fixture
def arguments(tmp_path, key):
    """`arguments(address, number=5, *more)`: the command line of a collection in `tmp_path`."""
    (tmp_path / "domains.yaml").write_text(
        yaml.safe_dump({"domains": [{"name": name, "system_prompt": text} for name, text in DOMAINS.items()]})
    )

    def make(address, number=5, *more):
        rows = [{"instruction": f"Question {k}?", "input": "", "output": f"Plain answer {k}."} for k in range(number)]
        (tmp_path / "alpaca.json").write_text(json.dumps(rows))
        return [
            "collect",
            *("--input", str(tmp_path / "alpaca.json")),
            *("--domains", str(tmp_path / "domains.yaml")),
            *("--base-url", address),
            *("--model", "tiny-chat"),
            *("--output", str(tmp_path / "dsp.json")),
            *more,
        ]

    return make


@pytest.fixture
def collected(tmp_path):
    """`collected()`: the rows written so far."""
    return lambda: json.loads((tmp_path / "dsp.json").read_text())
