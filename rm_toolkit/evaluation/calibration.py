"""
Whether reward differences are calibrated under Bradley-Terry: p = sigmoid(r_chosen - r_rejected).

A pair has no inherent order: "chosen beats rejected, with probability p" and "rejected beats chosen, with 1 - p" are
the same statement. Both measures treat the two alike, so neither depends on which response is named first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from .metrics import wins_of


NUM_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """
    Pairs grouped by the model's confidence in its own verdict, max(p, 1 - p).

    Args:
        edges (`np.ndarray` of shape `(num_bins + 1,)`): From 0.5 to 1, equally wide bins, closed on the left.
        counts (`np.ndarray` of shape `(num_bins,)`): Number of pairs in each bin.
        confidence (`np.ndarray` of shape `(num_bins,)`): Mean max(p, 1 - p) of each bin, NaN where it is empty.
        accuracy (`np.ndarray` of shape `(num_bins,)`): Share of the bin's pairs ranked correctly; equal rewards count half.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance between accuracy and confidence over pairs."""
        filled = self.counts > 0
        distance = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((distance * self.counts[filled]).sum() / self.counts.sum())


def reliability(margins: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
    """
    Groups pairs by confidence, for the expected calibration error and the reliability diagram.

    It equals the usual error of a binary classifier with `2 * num_bins` bins on [0, 1] that sees every pair in both
    orders: the bins of p and of 1 - p then hold the same pairs, so one half of them is enough.

    Args:
        margins (`np.ndarray` of shape `(num_pairs,)`): Reward of the chosen minus that of the rejected response, in
            logits; a margin that the data asks for is not subtracted.
        num_bins (`int`): Number of bins on [0.5, 1].

    References:
        - Expected calibration error: https://huggingface.co/papers/1706.04599, Eq. 3
    """
    confidence = expit(np.abs(np.asarray(margins, dtype=np.float64)))
    bins = np.minimum(((confidence - 0.5) * 2 * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(bins, weights=values, minlength=num_bins)
        return np.divide(sums, counts, out=np.full(num_bins, np.nan), where=counts > 0)

    return Reliability(
        np.linspace(0.5, 1.0, num_bins + 1), counts, mean(confidence), mean(wins_of(np.asarray(margins)))
    )


def brier_score(margins: np.ndarray) -> float:
    """
    Mean of (1 - p)^2 over pairs: 0 is perfect, 0.25 is p = 0.5 for every pair, 1 is certain and wrong. The other order
    gives the same: (0 - (1 - p))^2.

    Args:
        margins (`np.ndarray` of shape `(num_pairs,)`): In logits; a margin that the data asks for is not subtracted.
    """
    return float((expit(-np.asarray(margins, dtype=np.float64)) ** 2).mean())
