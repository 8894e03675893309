"""Micro-batches of padded rows for several processes: texts of similar length together, about equal tokens in each."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from .pieces import Pieces


CLOSE_ENOUGH = 1.002


class PaddedSlots:
    """
    Partitions the pieces, in the order of their longest texts, so that the largest micro-batch is as small as possible.

    Args:
        pieces (`Pieces`): The pieces of a step.
    """

    def __init__(self, pieces: Pieces):
        self.pieces = pieces
        self.order = sorted(range(len(pieces)), key=pieces.longest.__getitem__)
        self.longest = [pieces.longest[k] for k in self.order]
        self.sequences = [0, *accumulate(pieces.sequences[k] for k in self.order)]
        ends = [0, *accumulate(pieces.pairs[k] for k in self.order)]
        pairs = ends[-1] if pieces.by_tokens else pieces.limit
        # For each piece, the last end that the limit of pairs allows for a micro-batch that begins with it.
        self.last = [bisect_right(ends, end + pairs) - 1 for end in ends[:-1]]

    def find(self, count: int, num_processes: int) -> list[list[list[int]]] | None:
        """
        Args:
            count (`int`): Micro-batches of each process.
            num_processes (`int`): Number of processes.

        Returns:
            `list[list[list[int]]]`: See [`arrange`]; `None` if that many cannot hold all pieces.
        """
        number = count * num_processes
        costs = self.pieces.own_costs()
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
        """Returns slots of one micro-batch per process; those of similar size are computed at the same time."""
        ordered = sorted(batches, key=lambda batch: (-self.pieces.cost(batch), batch))
        return [ordered[begin : begin + num_processes] for begin in range(0, len(ordered), num_processes)]

    def _cuts(self, most: int, number: int) -> list[int] | None:
        """Ends of micro-batches of at most this many tokens, each as long as possible; `None` if there are too many."""
        sequences, longest, last_of = self.sequences, self.longest, self.last
        ends, begin, total = [], 0, len(self.order)
        while begin < total:
            if len(ends) == number:
                return None
            # The first end that is too far, by bisection: `bisect` with a key takes twice as long for so few.
            before, low, high = sequences[begin], begin + 1, last_of[begin] + 1
            step = high - 1 - low  # usually the limit of pairs ends it, and one check is enough
            while low < high:
                middle = low + step
                if (sequences[middle] - before) * longest[middle - 1] > most:
                    high = middle
                else:
                    low = middle + 1
                step = (high - low) // 2
            begin = max(low - 1, begin + 1)  # a piece over the limit is alone
            ends.append(begin)
        return ends
