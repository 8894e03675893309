"""What `benchmarks/architectures.py` reports about a family, and that the page has a row for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
FOUND = {"class": "LlamaForSequenceClassification", "layout": "plain", "reason": "x", "reloaded": 0.0, "stock": 2e-7}


@pytest.fixture
def architectures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import architectures

    return architectures


def test_a_family_holds_if_every_reader_agrees_or_a_reason_is_given(architectures):
    assert architectures.holds(FOUND) and architectures.holds({"refused": "no stock classifier"})
    assert not architectures.holds({**FOUND, "stock": 2e-5}) and not architectures.holds({"failed": "IndexError"})
    assert not architectures.holds({**FOUND, "reloaded": float("nan")})
    assert architectures.cells("A", FOUND) == [
        "A",
        "`LlamaForSequenceClassification`",
        "plain: x",
        "0.0e+00",
        "2.0e-07",
    ]
    assert architectures.cells("A", {**FOUND, "stock": 2e-5})[-1] == "2.0e-05 **over**"
    assert "**failed**: IndexError" in architectures.cells("A", {"failed": "IndexError"})
    assert architectures.largest([1.0, -4.0], [1.1, -4.4]) == pytest.approx(0.1)


def test_a_process_that_dies_is_one_row(architectures, tmp_path):
    import os

    found = architectures.in_a_process(os._exit, 3, work=tmp_path)
    assert found == {"failed": "the process ended with code 3"}


def test_the_page_has_a_row_for_each_family(architectures):
    assert (len(architectures.DECODERS), len(architectures.ENCODERS)) == (45, 10)
    page = architectures.PAGE.read_text(encoding="utf-8")
    begin, end = (page.index(mark) for mark in ("<!-- architectures: begin -->", "<!-- architectures: end -->"))
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page[begin:end].splitlines() if line.startswith("| ")]
    assert [name for name in rows if name != "family"] == list(architectures.FAMILIES)
    assert "**failed**" not in page and "**over**" not in page


@pytest.mark.slow
def test_families_of_each_kind_go_through(architectures, tmp_path, monkeypatch, capsys):
    """A decoder for each layout, one that is refused, and an encoder; a second run has nothing to do."""
    output = tmp_path / "found.json"
    command = ["--output", str(output), "--families", "Llama", "Falcon", "Granite", "EuroBERT"]
    assert architectures.main(command) == 0
    found = json.loads(output.read_text())
    assert [found[name].get("layout") for name in ("Llama", "Falcon", "EuroBERT")] == ["shared", "plain", "plain"]
    assert "no sequence classifier of it" in found["Granite"]["refused"]
    assert found["Falcon"]["reason"].startswith("its layers compute attention on their own")
    monkeypatch.setattr(architectures, "try_family", lambda family: pytest.fail("it was tried before"))
    capsys.readouterr()
    assert architectures.main(command) == 0
    assert "| Llama | `LlamaForSequenceClassification` | shared | " in capsys.readouterr().out
