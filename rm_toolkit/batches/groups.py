"""The pairs of each prompt, or of each row: looked up and ordered without a loop over the groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairGroups:
    """
    Pair indices of each group, ascending within it; the groups are in ascending order of their numbers.

    Args:
        pairs (`np.ndarray` of shape `(num_pairs,)`): Pair indices, group by group.
        starts (`np.ndarray` of shape `(num_groups + 1,)`): Where each group begins in `pairs`; none is empty.
        numbers (`np.ndarray` of shape `(num_groups,)`): Number of each group.
    """

    pairs: np.ndarray
    starts: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, group: np.ndarray) -> PairGroups:
        """
        Args:
            group (`np.ndarray` of shape `(num_pairs,)`): Number of the group of each pair.
        """
        pairs = np.argsort(group, kind="stable")
        ordered = group[pairs]
        first = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        starts = np.concatenate([[0], first, [len(pairs)]]) if len(pairs) else np.zeros(1, dtype=np.int64)
        return cls(pairs, starts, ordered[starts[:-1]])

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, order: np.ndarray) -> PairGroups:
        """
        Returns some of the groups, in another order.

        Args:
            order (`np.ndarray`): Positions of the groups, from 0.
        """
        sizes = np.diff(self.starts)[order]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        where = np.repeat(self.starts[:-1][order] - starts[:-1], sizes) + np.arange(starts[-1])
        return PairGroups(self.pairs[where], starts, self.numbers[order])

    def of_number(self, number: int) -> np.ndarray:
        """Returns the pairs of the group with this number; empty if there is no such group."""
        place = int(np.searchsorted(self.numbers, number))
        if place == len(self.numbers) or self.numbers[place] != number:
            return self.pairs[:0]
        return self.pairs[self.starts[place] : self.starts[place + 1]]
