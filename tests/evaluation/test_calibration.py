"""Calibration of pairs, by hand and against scikit-learn, which gets every pair in both orders."""

import math

import numpy as np
import pytest

from rm_toolkit.evaluation.calibration import brier_score, reliability, wins_of


def logit(p):
    return math.log(p / (1 - p))


def test_brier_and_calibration_error_by_hand():
    # Confidence .77 twice, once right and once wrong; one tie; confidence .97 and right.
    margins = np.array([logit(0.77), -logit(0.77), 0.0, logit(0.97)])
    assert brier_score(margins) == pytest.approx((0.23**2 + 0.77**2 + 0.25 + 0.03**2) / 4)
    curve = reliability(margins)
    assert curve.counts.tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert curve.accuracy[[0, 5, 9]].tolist() == [0.5, 0.5, 1.0]
    assert curve.confidence[[0, 5, 9]] == pytest.approx([0.5, 0.77, 0.97])
    assert np.isnan(curve.accuracy[1])
    assert curve.error == pytest.approx((1 * 0 + 2 * 0.27 + 1 * 0.03) / 4)


def test_limits_and_direction():
    sure = np.full(3, 800.0)  # `exp` would overflow
    assert (brier_score(sure), brier_score(-sure), brier_score(0 * sure)) == (0.0, 1.0, 0.25)
    assert (reliability(sure).error, reliability(-sure).error, reliability(0 * sure).error) == (0.0, 1.0, 0.0)
    assert brier_score(np.array([2.0])) < brier_score(np.array([1.0])) < brier_score(np.array([-1.0]))
    assert wins_of(np.array([0.1, 0.0, -3.0])).tolist() == [1.0, 0.5, 0.0]


def test_equal_to_scikit_learn_on_both_orders_of_every_pair():
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    margins = np.random.default_rng(0).normal(0.7, 1.5, 2000)
    p = 1 / (1 + np.exp(-margins))
    probability, truth = np.concatenate([p, 1 - p]), np.repeat([1, 0], len(p))
    assert brier_score(margins) == pytest.approx(brier_score_loss(truth, probability))
    observed, stated = calibration_curve(truth, probability, n_bins=20)
    counts = np.histogram(probability, np.linspace(0, 1, 21))[0]
    expected = (np.abs(observed - stated) * counts).sum() / counts.sum()
    assert reliability(margins, num_bins=10).error == pytest.approx(expected)
