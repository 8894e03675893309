"""First fit in logarithmic time: finds the first batch with enough room."""

from __future__ import annotations


UNUSED = 1 << 62  # fill level of a batch that is not begun: above every limit


class FirstFit:
    """
    Finds the first of many batches filled no more than a limit, in logarithmic time. It is a tree in which each inner
    node has the lowest fill level below it.

    Args:
        capacity (`int`): Maximum number of batches.
    """

    def __init__(self, capacity: int):
        self._size = 1 << max(0, capacity - 1).bit_length()
        self._tree = [UNUSED] * (2 * self._size)

    def set(self, batch: int, filled: int) -> None:
        """Records the fill level of a batch."""
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
            at_most (`int`): Maximum fill level of the batch.
            begin (`int`): The first batch to consider.

        Returns:
            `int` or `None`: Index of the first such batch from `begin` on.
        """
        tree, size = self._tree, self._size
        if begin >= size:
            return None
        place = begin + size if begin else 1
        while tree[place] > at_most:
            while place & 1:  # a right child: nothing further right under the same parent
                place >>= 1
            if not place:
                return None
            place += 1
        while place < size:
            place *= 2
            if tree[place] > at_most:
                place += 1
        return place - size
