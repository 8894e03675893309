"""How sure a figure is: bootstrap intervals over prompts, since the pairs of one prompt do not err independently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


# Numbers that one step of the resampling holds: 32 MB each of two arrays.
NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Bootstrap:
    """
    How intervals are computed. The same seed and the same prompts give the same resamples, for every model.

    Args:
        resamples (`int`): How often the prompts are drawn anew.
        level (`float`): Confidence level.
        seed (`int`): Seed of the draws.
    """

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def interval(self, values: np.ndarray, prompt: np.ndarray) -> list[float] | None:
        """
        Interval of the mean over pairs, prompts drawn with replacement and with all of their pairs (percentiles).

        Args:
            values (`np.ndarray` of shape `(num_pairs,)`): What is averaged, such as 1 for each pair ranked rightly.
            prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt of each pair.

        Returns:
            `list[float]` or `None`: Low and high end; `None` for fewer than two prompts.
        """
        totals, counts = per_prompt(values, prompt)
        if len(counts) < 2:
            return None
        result = stats.bootstrap(
            (totals, counts),
            _ratio,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=self.resamples,
            batch=max(1, NUMBERS_AT_ONCE // len(counts)),
            confidence_level=self.level,
            rng=np.random.default_rng(self.seed),
        )
        return [float(result.confidence_interval.low), float(result.confidence_interval.high)]

    def accuracy_interval(self, wins: np.ndarray, prompt: np.ndarray) -> list[float] | None:
        """
        As [`interval`], of an accuracy. Where every pair is right, or none, resampling sees no spread at all: then the
        Wilson interval, each prompt one trial.

        Args:
            wins (`np.ndarray` of shape `(num_pairs,)`): 1 for a pair ranked rightly, 0.5 for equal rewards, else 0.
            prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt of each pair.
        """
        if len(wins) and (np.all(wins == 0) or np.all(wins == 1)):
            trials = len(np.unique(prompt))
            exact = stats.binomtest(trials if wins[0] else 0, trials)
            ends = exact.proportion_ci(self.level, method="wilson")
            return [float(ends.low), float(ends.high)]
        return self.interval(wins, prompt)


def per_prompt(values: np.ndarray, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Sums the values of each prompt.

    Returns:
        `tuple` of two `np.ndarray` of shape `(num_prompts,)`: Sum of the values, and number of pairs, of each prompt.
    """
    _, number = np.unique(prompt, return_inverse=True)
    return np.bincount(number, weights=values), np.bincount(number).astype(np.float64)


def _ratio(totals: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return totals.sum(axis=axis) / counts.sum(axis=axis)
