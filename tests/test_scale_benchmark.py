"""The scaling benchmark runs from start to end at a tiny size; its exponents are right for known growth."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("scale", BENCHMARKS / "scale.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from speed import data

    monkeypatch.setattr(data, "PUBLISHED", Path("absent"))
    return module


def test_the_exponent_of_known_growth(scale):
    sizes = [10, 100, 1000]
    assert scale.exponent(sizes, [7.0, 7.0, 7.0]) == "0.00"
    assert scale.exponent(sizes, [size * 2.0 for size in sizes]) == "1.00"
    assert scale.exponent(sizes, [size**1.5 for size in sizes]) == "1.50"


def test_planning_is_measured_in_a_process_of_its_own(scale, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["scale.py", "--baseline", "none", "--parts", "planning", "--sizes", "100", "--steps", "16"]
    )
    scale.main()
    printed = capsys.readouterr().out
    assert re.search(r"\| 16 by tokens \| now \| [\d.]+ \|", printed)


def test_a_simulated_run_says_hours_loss_and_memory(scale):
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    printed = scale.paper_table(1000, per_process=40, config=small, runs=((8, 1, 64),))
    cells = printed.splitlines()[-2 if not printed.splitlines()[-1] else -1].split("|")
    assert cells[1].strip() == "8 GPUs on 1" and cells[2].strip() == "16"
    even, hours = float(cells[3]), float(cells[4])
    assert 0 <= even <= hours


@pytest.mark.slow
def test_every_table_is_printed_beside_trl_and_0_2_1(scale, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["scale.py", "--sizes", "400", "800", "--steps", "16", "--ranks", "1", "2"])
    scale.main()
    printed = capsys.readouterr().out
    titles = re.findall("### ([^,\n]+)", printed)
    assert titles[:4] == ["Planning a step", "Start and resume", "Tokenization", "Memory of a machine"]
    assert "| TRL |" in printed and "| now |" in printed


def test_responses_of_a_prompt_are_counted_in_both_ways(scale, monkeypatch):
    monkeypatch.setitem(scale.responses_table.__globals__, "MOST_TIMED", 4)  # splitting the pairs of 20 takes long
    printed = scale.responses_table((4, 20), 8)
    assert re.search(r"\| 4 responses, 6 pairs \| 4 \+ 4 +\| 4 \+ 4 +\| 1\.0 ", printed)  # it fits into a micro-batch
    found = re.search(r"\| 20 responses, 190 pairs \| (\d+) \+ (\d+) \| 40 \+ 20 \| ([\d.]+) \| +\|", printed)
    forward, backward = int(found[1]), int(found[2])
    assert forward == backward > 24 * 5  # 24 micro-batches, of at least 5 responses for 8 pairs
    assert float(found[3]) == pytest.approx(3 * forward / 80, abs=0.05)
