"""How sure a figure is: bootstrap intervals over prompts, since the pairs of one prompt do not err independently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from scipy import stats


# Prompts drawn at once: 0.5 MB, so that what is summed of them stays in the cache of a CPU.
DRAWN_AT_ONCE = 65_536


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

    def intervals(self, columns: Sequence[np.ndarray], prompt: np.ndarray) -> list[list[float] | None]:
        """
        Intervals of means over the same pairs, all seen on the same resamples: prompts drawn with replacement and with
        all of their pairs (percentiles). A column of one value alone is not resampled: its mean is that value.

        Args:
            columns (list of `np.ndarray` of shape `(num_pairs,)`): What is averaged, such as 1 for each pair ranked
                rightly.
            prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt of each pair.

        Returns:
            list of (`list[float]` or `None`): Low and high end of each; `None` for fewer than two prompts.
        """
        number, counts = _number_prompts(prompt)
        if len(counts) < 2:
            return [None] * len(columns)
        varied = [values for values in columns if values.min() != values.max()]
        means = iter(self._means([np.bincount(number, weights=values) for values in varied], counts))
        return [
            self._ends(next(means)) if values.min() != values.max() else [float(values[0]), float(values[0])]
            for values in columns
        ]

    def _ends(self, means: np.ndarray) -> list[float]:
        """Low and high end of an interval, from the means of the resamples: scipy's own, without its draws."""
        result = stats.bootstrap(
            (means,),
            np.mean,
            method="percentile",
            n_resamples=0,
            confidence_level=self.level,
            bootstrap_result=SimpleNamespace(bootstrap_distribution=means),
        )
        return [float(result.confidence_interval.low), float(result.confidence_interval.high)]

    def _means(self, totals: list[np.ndarray], counts: np.ndarray) -> np.ndarray:
        """Means over the pairs of each resample, of shape `(len(totals), resamples)`."""
        means = np.empty((len(totals), self.resamples))
        if not totals:
            return means
        rng, num_prompts = np.random.default_rng(self.seed), len(counts)
        at_once = max(1, DRAWN_AT_ONCE // num_prompts)
        even = counts.min() == counts.max()  # every resample has as many pairs
        for begin in range(0, self.resamples, at_once):
            own = slice(begin, min(begin + at_once, self.resamples))
            drawn = rng.integers(0, num_prompts, (own.stop - begin, num_prompts))
            num_pairs = counts.sum() if even else counts.take(drawn).sum(axis=1)
            for mean, total in zip(means, totals):
                mean[own] = total.take(drawn).sum(axis=1) / num_pairs
        return means

    def interval(self, values: np.ndarray, prompt: np.ndarray) -> list[float] | None:
        """As [`intervals`], of one column."""
        return self.intervals([values], prompt)[0]

    def accuracy_intervals(
        self, wins: np.ndarray, prompt: np.ndarray, columns: Sequence[np.ndarray] = ()
    ) -> list[list[float] | None]:
        """
        As [`intervals`], of an accuracy and of other columns. Where every pair is right, or none, resampling sees no
        spread of the accuracy at all: then the Wilson interval, each prompt one trial.

        Args:
            wins (`np.ndarray` of shape `(num_pairs,)`): 1 for a pair ranked rightly, 0.5 for equal rewards, else 0.
            prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt of each pair.
            columns (list of `np.ndarray` of shape `(num_pairs,)`): The others.
        """
        if len(wins) and (np.all(wins == 0) or np.all(wins == 1)):
            trials = len(np.unique(prompt))
            exact = stats.binomtest(trials if wins[0] else 0, trials)
            ends = exact.proportion_ci(self.level, method="wilson")
            return [[float(ends.low), float(ends.high)], *self.intervals(columns, prompt)]
        return self.intervals([wins, *columns], prompt)

    def accuracy_interval(self, wins: np.ndarray, prompt: np.ndarray) -> list[float] | None:
        """As [`accuracy_intervals`], of the accuracy alone."""
        return self.accuracy_intervals(wins, prompt)[0]


def per_prompt(values: np.ndarray, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Sums the values of each prompt.

    Returns:
        `tuple` of two `np.ndarray` of shape `(num_prompts,)`: Sum of the values, and number of pairs, of each prompt.
    """
    number, counts = _number_prompts(prompt)
    return np.bincount(number, weights=values), counts


def _number_prompts(prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the prompt of each pair, without gaps, and the pairs of each prompt."""
    _, number = np.unique(prompt, return_inverse=True)
    return number, np.bincount(number).astype(np.float64)
