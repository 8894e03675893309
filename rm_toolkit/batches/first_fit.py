"""First fit without a look at every batch: which is the first that still has so much room."""

from __future__ import annotations


UNUSED = 1 << 62  # of a batch that is not begun: no limit allows for it


class FirstFit:
    """
    Finds the first of many batches that is filled no further than a limit, in the logarithm of their number: a tree, in
    which each inner place holds the least that a batch below it is filled.

    Args:
        capacity (`int`): Batches there may be.
    """

    def __init__(self, capacity: int):
        self._size = 1 << max(0, capacity - 1).bit_length()
        self._tree = [UNUSED] * (2 * self._size)

    def set(self, batch: int, filled: int) -> None:
        """Takes down how far a batch is filled."""
        tree, place = self._tree, batch + self._size
        tree[place] = filled
        while place > 1:
            place >>= 1
            least = min(tree[2 * place], tree[2 * place + 1])
            if tree[place] == least:
                return
            tree[place] = least

    def first(self, at_most: int, begin: int = 0) -> int | None:
        """
        Args:
            at_most (`int`): How far the batch may be filled.
            begin (`int`): The first batch that counts.

        Returns:
            `int` or `None`: Number of the first batch from `begin` on.
        """
        tree, size = self._tree, self._size
        if begin >= size:
            return None
        place = begin + size if begin else 1
        while tree[place] > at_most:
            while place & 1:  # the right one of two: nothing further right below the same place
                place >>= 1
            if not place:
                return None
            place += 1
        while place < size:
            place *= 2
            if tree[place] > at_most:
                place += 1
        return place - size
