"""Bootstrap intervals over prompts, because the errors of one prompt's pairs are not independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from scipy import stats


# Prompts drawn at once: 0.5 MB, so that the values to sum stay in the CPU cache.
DRAWN_AT_ONCE = 65_536
# From this number on, prompts are drawn in blocks of 256, so that a draw fits a byte.
MANY_PROMPTS, BLOCK = 16_384, 256


@dataclass(frozen=True)
class Bootstrap:
    """
    How intervals are computed. The same seed and the same prompts give the same resamples, for every model.

    Args:
        resamples (`int`): Number of resamples.
        level (`float`): Confidence level.
        seed (`int`): Seed of the draws.
    """

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def intervals(self, columns: Sequence[np.ndarray], prompt: np.ndarray) -> list[list[float] | None]:
        """
        Percentile intervals of means over the same pairs, all on the same resamples: prompts are drawn with replacement,
        each with all of its pairs. A constant column is not resampled: its mean is that value.

        Args:
            columns (list of `np.ndarray` of shape `(num_pairs,)`): Values to average, such as 1 for each pair ranked
                correctly.
            prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt of each pair.

        Returns:
            list of (`list[float]` or `None`): Low and high end of each; `None` with fewer than two prompts.
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

    def means(self, columns: Sequence[np.ndarray], prompt: np.ndarray) -> np.ndarray:
        """
        Means over the pairs of each resample, for quantities that combine several means.

        Args:
            columns, prompt: As in [`intervals`].

        Returns:
            `np.ndarray` of shape `(len(columns), resamples)`: All columns on the same resamples.
        """
        number, counts = _number_prompts(prompt)
        return self._means([np.bincount(number, weights=values) for values in columns], counts)

    def _ends(self, means: np.ndarray) -> list[float]:
        """Low and high end of an interval, from the means of the resamples: scipy's method on our draws."""
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
        even = counts.min() == counts.max()  # every resample has as many pairs
        begin = 0
        for drawn in self._draws(len(counts)):
            own = slice(begin, begin := begin + len(drawn))
            num_pairs = counts.sum() if even else counts.take(drawn).sum(axis=1)
            for mean, total in zip(means, totals):
                mean[own] = total.take(drawn).sum(axis=1) / num_pairs
        return means

    def _draws(self, num_prompts: int) -> Iterator[np.ndarray]:
        """Yields the prompts of the resamples in chunks, each of shape `(num_resamples, num_prompts)`."""
        rng = np.random.default_rng(self.seed)
        if num_prompts >= MANY_PROMPTS:
            for _ in range(self.resamples):
                yield _draw_by_blocks(rng, num_prompts)[None]
            return
        at_once = DRAWN_AT_ONCE // num_prompts
        for begin in range(0, self.resamples, at_once):
            yield rng.integers(0, num_prompts, (min(at_once, self.resamples - begin), num_prompts))

    def interval(self, values: np.ndarray, prompt: np.ndarray) -> list[float] | None:
        """As [`intervals`], for one column."""
        return self.intervals([values], prompt)[0]

    def accuracy_intervals(
        self, wins: np.ndarray, prompt: np.ndarray, columns: Sequence[np.ndarray] = ()
    ) -> list[list[float] | None]:
        """
        As [`intervals`], for an accuracy and other columns. If every pair is right, or none, resampling shows no spread;
        the accuracy then gets the Wilson interval, with each prompt as one trial.

        Args:
            wins (`np.ndarray` of shape `(num_pairs,)`): 1 for a pair ranked correctly, 0.5 for equal rewards, else 0.
            prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt of each pair.
            columns (list of `np.ndarray` of shape `(num_pairs,)`): The other columns.
        """
        if len(wins) and (np.all(wins == 0) or np.all(wins == 1)):
            trials = len(np.unique(prompt))
            exact = stats.binomtest(trials if wins[0] else 0, trials)
            ends = exact.proportion_ci(self.level, method="wilson")
            return [[float(ends.low), float(ends.high)], *self.intervals(columns, prompt)]
        return self.intervals([wins, *columns], prompt)

    def accuracy_interval(self, wins: np.ndarray, prompt: np.ndarray) -> list[float] | None:
        """As [`accuracy_intervals`], for the accuracy only."""
        return self.accuracy_intervals(wins, prompt)[0]


def _draw_by_blocks(rng: np.random.Generator, num_prompts: int) -> np.ndarray:
    """
    Draws `num_prompts` prompts with replacement, block by block: first how many draws fall into each block, then the
    prompt of each draw. The distribution is that of draws from all prompts, in a third of the time: a draw takes one
    byte, and memory is read in order.
    """
    begins = np.arange(0, num_prompts, BLOCK)
    sizes = np.diff(begins, append=num_prompts)
    falls = rng.multinomial(num_prompts, sizes / num_prompts)
    drawn = np.repeat(begins, falls)
    drawn += np.frombuffer(rng.bytes(num_prompts), dtype=np.uint8)
    drawn[num_prompts - falls[-1] :] = rng.integers(begins[-1], num_prompts, falls[-1])  # the last one may be smaller
    return drawn


def per_prompt(values: np.ndarray, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Sums the values of each prompt.

    Returns:
        `tuple` of two `np.ndarray` of shape `(num_prompts,)`: Sum of the values and number of pairs of each prompt.
    """
    number, counts = _number_prompts(prompt)
    return np.bincount(number, weights=values), counts


def _number_prompts(prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prompt number of each pair, without gaps, and the number of pairs of each prompt."""
    _, number = np.unique(prompt, return_inverse=True)
    return number, np.bincount(number).astype(np.float64)
