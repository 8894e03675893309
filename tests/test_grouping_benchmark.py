"""`benchmarks/grouping.py`: how it arranges pairs and chooses rates, and what its table says. Nothing is trained."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
from datasets import Dataset


SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "grouping.py"
BEST = {"shuffled": 9e-3, "grouped": 1e-3}  # the best rate of each arm in this test


@pytest.fixture
def grouping(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("grouping", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(grouping, folder, *options):
    base = ["--data", "none", "--model", "none", "--output", str(folder / "out.json"), "--steps", "8", "--seeds", "2"]
    return grouping.parse([*base, "--learning-rates", "1e-3", "3e-3", *options])


def finished(calls):
    """A fake run, better the nearer its rate is to the arm's best: each factor of three loses one pair in eight."""

    def run(args, data, arm, step, rate, seed):
        calls.append((arm, rate, seed))
        right = 8 - round(abs(math.log(rate / BEST[arm], 3)))
        wins = [1.0] * right + [0.0] * (8 - right)
        return {"judge": wins, "test": wins, "seconds": 0.0}

    return run


def test_a_best_rate_at_the_edge_makes_the_grid_wider(grouping, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(grouping, "run", finished(calls))
    args = parse(grouping, tmp_path)
    results = grouping.Results(args)
    for arm in ("shuffled", "grouped"):
        grouping.run_arm(args, results, {}, arm, 8)
    assert [rate for rate, _ in results.judged("shuffled", 8).items()] == [1e-3, 3e-3, 9e-3, 2.7e-2]
    assert [rate for rate, _ in results.judged("grouped", 8).items()] == [3.33e-4, 1e-3, 3e-3]
    assert (results.best_rate("shuffled", 8), results.best_rate("grouped", 8)) == (9e-3, 1e-3)
    assert len(calls) == 2 * (4 + 3)  # two seeds each; those of the best rate were done
    grouping.run_arm(args, grouping.Results(args), {}, "grouped", 8)
    assert len(calls) == 14  # everything was in the file
    # A rate that an earlier call has tried is part of the grid; here it is the edge, so the grid is extended.
    results = grouping.Results(parse(grouping, tmp_path, "--steps", "16"))
    for seed in (0, 1):
        results.cell("shuffled", 16, 9e-3, seed, lambda: {"judge": [1.0], "test": [1.0], "seconds": 0.0})
    grouping.run_arm(args, results, {}, "shuffled", 16)
    assert max(results.judged("shuffled", 16)) == 2.7e-2


def test_an_arm_that_is_not_tuned_yet_is_left_out_of_the_table(grouping, tmp_path, monkeypatch):
    args = parse(grouping, tmp_path)
    results = grouping.Results(args)
    results.cell("shuffled", 8, 1e-3, 0, lambda: {"judge": [1.0], "test": [1.0], "seconds": 0.0})
    monkeypatch.setattr(grouping, "test_prompts", lambda args: ["a"])
    assert len(grouping.table(args, results).splitlines()) == 2  # only its head


def test_rates_are_compared_over_the_seeds_that_tune(grouping, tmp_path):
    args = parse(grouping, tmp_path, "--tune-seeds", "2")
    results = grouping.Results(args)
    for rate, seed, judge in (
        (1e-3, 0, 0.0),
        (1e-3, 1, 1.0),
        (3e-3, 0, 1.0),
        (9e-3, 0, 1.0),
        (9e-3, 1, 1.0),
        (9e-3, 2, 0.0),
    ):
        results.cell("grouped", 8, rate, seed, lambda judge=judge: {"judge": [judge], "test": [judge], "seconds": 0.0})
    assert results.judged("grouped", 8) == {1e-3: 0.5, 9e-3: 1.0}


def test_other_settings_are_refused(grouping, tmp_path):
    grouping.Results(parse(grouping, tmp_path)).cell(
        "grouped", 8, 1.0, 0, lambda: {"judge": [1], "test": [1], "seconds": 0}
    )
    with pytest.raises(SystemExit, match="holds runs of other settings"):
        grouping.Results(parse(grouping, tmp_path, "--domain", "academy"))


def test_the_difference_is_paired_over_queries(grouping, tmp_path, monkeypatch):
    args = parse(grouping, tmp_path)
    results = grouping.Results(args)
    wins = {"shuffled": [1.0, 0.0, 0.0, 1.0], "grouped": [1.0, 1.0, 0.0, 1.0]}
    for arm, found in wins.items():
        for seed in (0, 1):
            results.cell(arm, 8, 1e-3, seed, lambda found=found: {"judge": found, "test": found, "seconds": 0.0})
    monkeypatch.setattr(grouping, "test_prompts", lambda args: ["a", "a", "b", "b"])
    last = grouping.table(args, results).splitlines()[-1]
    # Query a gains a half, query b nothing: between 0 and 0.5, and a quarter over both.
    assert "| grouped | 0.001 (0.001: 0.750) | 0.750 | 0.750 0.750 | +0.250 (+0.000 to +0.500) |" in last


def test_at_most_two_pairs_of_a_query_stay_together(grouping):
    names = ("prompt_id", "prompt", "chosen", "rejected")
    pairs = Dataset.from_list([dict(zip(names, (q, q, f"{q}+", f"{q}{k}"))) for q in "ab" for k in range(3)])
    rows, grouped = grouping.arrange(pairs, "at most 2", seed=0)
    assert not grouped
    assert sorted(len(row["completions"]) for row in rows) == [2, 2, 3, 3]
    assert all(row["completions"][0] == row["prompt"] + "+" and row["scores"][0] == 1.0 for row in rows)
    rivals = sorted(text for row in rows for text in row["completions"][1:])
    assert rivals == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert grouping.arrange(pairs, "grouped", seed=0) == (pairs, True)
    assert grouping.arrange(pairs, "shuffled", seed=0) == (pairs, False)
    assert json.loads(json.dumps(rows[0]))["scores"][1:] == [0.0] * (len(rows[0]["completions"]) - 1)
