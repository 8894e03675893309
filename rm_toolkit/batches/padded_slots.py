"""Micro-batches of padded rows for several processes: texts of like length together, equally many tokens in each."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from .pieces import Pieces


CLOSE_ENOUGH = 1.002


class PaddedSlots:
    """
    Cuts the pieces, in the order of their longest texts, so that the largest micro-batch becomes as small as it can.

    Args:
        pieces (`Pieces`): The pieces of a step.
    """

    def __init__(self, pieces: Pieces):
        self.pieces = pieces
        self.order = sorted(range(len(pieces)), key=pieces.longest.__getitem__)
        self.longest = [pieces.longest[k] for k in self.order]
        self.sequences = [0, *accumulate(pieces.sequences[k] for k in self.order)]
        self.pairs = [0, *accumulate(pieces.pairs[k] for k in self.order)]

    def find(self, count: int, num_processes: int) -> list[list[list[int]]] | None:
        """
        Args:
            count (`int`): Micro-batches of each process.
            num_processes (`int`): Number of processes.

        Returns:
            `list[list[list[int]]]`: See [`arrange`]; `None` if so many cannot hold all pieces.
        """
        number = count * num_processes
        costs = [self.pieces.cost([k]) for k in self.order]
        most = self.pieces.limit if self.pieces.by_tokens else self.sequences[-1] * self.longest[-1]
        best = self._cuts(most, number)
        if best is None:
            return None
        least = min(most, max(*costs, sum(costs) // number))
        while most > CLOSE_ENOUGH * least:
            middle = (least + most) // 2
            cuts = self._cuts(middle, number)
            if cuts is None:
                least = middle + 1
            else:
                best, most = cuts, middle
        batches = [self.order[begin:end] for begin, end in zip([0, *best], best)]
        self.pieces.spread(batches, number)
        return self.arrange(batches, num_processes)

    def arrange(self, batches: list[list[int]], num_processes: int) -> list[list[list[int]]]:
        """Returns slots of one micro-batch for each process, those of like size computed at the same time."""
        ordered = sorted(batches, key=lambda batch: (-self.pieces.cost(batch), batch))
        return [ordered[begin : begin + num_processes] for begin in range(0, len(ordered), num_processes)]

    def _cuts(self, most: int, number: int) -> list[int] | None:
        """Where micro-batches of at most so many tokens end, each as long as it can be; `None` if there are too many."""
        pieces, ends, begin, total = self.pieces, [], 0, len(self.order)
        pairs = pieces.limit if not pieces.by_tokens else self.pairs[-1]
        while begin < total:
            if len(ends) == number:
                return None
            last = bisect_right(self.pairs, self.pairs[begin] + pairs) - 1
            before = self.sequences[begin]
            end = bisect_right(
                range(begin + 1, last + 1), most, key=lambda k: (self.sequences[k] - before) * self.longest[k - 1]
            )
            begin = max(begin + end, begin + 1)  # a piece over the limit stands alone
            ends.append(begin)
        return ends
