"""Intervals over prompts: known widths, the same draws for any amount of memory, and cases that resampling misses."""

import math

import numpy as np
import pytest
from scipy import stats

from rm_toolkit.evaluation import intervals
from rm_toolkit.evaluation.intervals import Bootstrap, per_prompt
from rm_toolkit.evaluation.summary import compare


def test_values_are_summed_by_prompt():
    totals, counts = per_prompt(np.array([1.0, 0.0, 0.5, 1.0]), np.array([7, 3, 7, 7]))
    assert (totals.tolist(), counts.tolist()) == ([0.0, 2.5], [1.0, 3.0])


def test_pairs_of_one_prompt_are_no_new_evidence():
    wins = np.tile([1.0, 0.0], 100)
    alone = Bootstrap().accuracy_interval(wins, np.arange(200))
    in_fours = Bootstrap().accuracy_interval(np.repeat(wins[:50], 4), np.repeat(np.arange(50), 4))
    for (low, high), prompts in ((alone, 200), (in_fours, 50)):
        half = 1.96 * math.sqrt(0.25 / prompts)  # the normal approximation
        assert low == pytest.approx(0.5 - half, abs=0.02)
        assert high == pytest.approx(0.5 + half, abs=0.02)


def test_uneven_prompts_weigh_by_their_pairs():
    # A prompt with 30 right pairs and nine with one wrong pair: sometimes the large one is drawn twice or not at all.
    wins, prompt = np.repeat([1.0, 0.0], [30, 9]), np.concatenate([np.zeros(30, int), np.arange(1, 10)])
    low, high = Bootstrap().accuracy_interval(wins, prompt)
    assert low == 0.0
    assert high == pytest.approx(30 * 3 / (30 * 3 + 7))


def test_draws_depend_on_the_seed_and_not_on_the_memory(monkeypatch):
    wins, prompt = np.random.default_rng(1).integers(0, 2, 300).astype(float), np.arange(300) // 2
    first = Bootstrap(resamples=500).interval(wins, prompt)
    monkeypatch.setattr(intervals, "DRAWN_AT_ONCE", 1000)
    assert Bootstrap(resamples=500).interval(wins, prompt) == first
    assert Bootstrap(resamples=500, seed=1).interval(wins, prompt) != first


@pytest.mark.parametrize("num_prompts", [7, 90])
def test_the_draws_are_those_of_scipys_bootstrap(num_prompts):
    rng = np.random.default_rng(3)
    wins, margins = rng.integers(0, 3, 301) / 2, rng.normal(size=301)
    for prompt in (rng.integers(0, num_prompts, 301), np.arange(301)):
        wanted = []
        for values in (wins, margins):
            totals, counts = per_prompt(values, prompt)
            found = stats.bootstrap(
                (totals, counts),
                lambda totals, counts, axis=-1: totals.sum(axis=axis) / counts.sum(axis=axis),
                paired=True,
                method="percentile",
                n_resamples=200,
                rng=np.random.default_rng(0),
            )
            wanted.append([float(found.confidence_interval.low), float(found.confidence_interval.high)])
        assert Bootstrap(resamples=200).accuracy_intervals(wins, prompt, [margins]) == wanted


def test_a_column_of_one_value_is_not_resampled(monkeypatch):
    drawn = []
    monkeypatch.setattr(Bootstrap, "_means", lambda self, totals, counts: drawn.append(len(totals)) or [])
    assert Bootstrap().intervals([np.full(9, 0.25), np.zeros(9)], np.arange(9)) == [[0.25, 0.25], [0.0, 0.0]]
    assert drawn == [0]


def test_all_right_or_all_wrong_gets_the_wilson_interval():
    z = 1.959964
    low, high = Bootstrap().accuracy_interval(np.ones(20), np.arange(20) // 2)
    assert (low, high) == (pytest.approx(10 / (10 + z**2), abs=1e-4), 1.0)
    low, high = Bootstrap().accuracy_interval(np.zeros(10), np.arange(10))
    assert (low, high) == (0.0, pytest.approx(z**2 / (10 + z**2), abs=1e-4))
    assert Bootstrap().accuracy_interval(np.full(10, 0.5), np.arange(10)) == [0.5, 0.5]


def test_one_prompt_has_no_interval():
    assert Bootstrap().interval(np.array([1.0, 0.0]), np.zeros(2, int)) is None


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    first = rng.normal(0.5, 1, 400)
    second = first + 0.1 * rng.normal(2, 1, 400)  # better on nearly the same pairs
    prompt = np.arange(400)
    found = compare(first, second, prompt, Bootstrap())
    assert found["value"] == pytest.approx((second > 0).mean() - (first > 0).mean())
    assert 0 < found["low"] < found["value"] < found["high"]
    low, high = Bootstrap().accuracy_interval((first > 0) * 1.0, prompt)
    assert found["high"] - found["low"] < 0.6 * (high - low)  # for independent models, it would be 1.4
    assert compare(first, first, prompt, Bootstrap()) == {"value": 0.0, "low": 0.0, "high": 0.0}
    swapped = compare(second, first, prompt, Bootstrap())
    assert (swapped["low"], swapped["high"]) == pytest.approx((-found["high"], -found["low"]))


def test_many_prompts_are_drawn_by_blocks_each_as_likely():
    num_prompts = intervals.MANY_PROMPTS + 100  # the last block is smaller
    draws = list(Bootstrap(resamples=100)._draws(num_prompts))
    assert {drawn.shape for drawn in draws} == {(1, num_prompts)}
    times = np.bincount(np.concatenate(draws, axis=None), minlength=num_prompts)
    assert len(times) == num_prompts and times.min() > 40 and times.max() < 170  # mean 100, standard deviation 10
    assert times[-100:].mean() == pytest.approx(100, abs=5)
    assert times.var() == pytest.approx(100, rel=0.1)  # as for independent draws
    blocks = np.array([np.bincount(drawn[0] // intervals.BLOCK)[:8] for drawn in draws])
    assert blocks.var() == pytest.approx(256, rel=0.2)  # also for whole blocks


def test_intervals_of_many_prompts_are_as_wide_as_is_known():
    wins = (np.random.default_rng(0).random(20_000) < 0.7).astype(float)
    low, high = Bootstrap().accuracy_interval(wins, np.arange(20_000))
    half = 1.96 * math.sqrt(0.21 / 20_000)
    assert (low, high) == (pytest.approx(wins.mean() - half, rel=1e-3), pytest.approx(wins.mean() + half, rel=1e-3))
    assert Bootstrap().accuracy_interval(wins, np.arange(20_000)) == [low, high]
    assert Bootstrap(seed=1).accuracy_interval(wins, np.arange(20_000)) != [low, high]
