"""The pieces of a step: whole prompts, or as many pairs of one as fit a micro-batch, and their costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pieces:
    """
    The smallest units of a step, by index.

    Args:
        pairs, sequences (`list[int]`): Pairs and distinct texts of each.
        longest (`list[int]`): Tokens of the longest text of each.
        tokens (`list[int]`): Tokens of each without padding; those of a shared beginning count once.
        sizes (`list[int]`): Size of each as counted by the limit.
        limit (`int`): Maximum number of pairs, or with `by_tokens` tokens, per micro-batch; a single piece may have more.
        by_tokens (`bool`): Whether the limit counts tokens.
        padded (`bool`): Whether each text of a micro-batch takes as many tokens as the longest.
    """

    pairs: list[int]
    sequences: list[int]
    longest: list[int]
    tokens: list[int]
    sizes: list[int]
    limit: int
    by_tokens: bool
    padded: bool

    def __len__(self) -> int:
        return len(self.pairs)

    def cost(self, batch: Sequence[int]) -> int:
        """Returns the tokens that a micro-batch of some pieces computes, padding included."""
        if not self.padded:
            return sum(self.tokens[k] for k in batch)
        return sum(self.sequences[k] for k in batch) * max((self.longest[k] for k in batch), default=0)

    def size(self, batch: Sequence[int]) -> int:
        """Returns its size as counted by the limit."""
        return self.cost(batch) if self.by_tokens and self.padded else sum(self.sizes[k] for k in batch)

    def own_costs(self) -> list[int]:
        """Returns the tokens of each single piece, as [`cost`] counts them."""
        if not self.padded:
            return self.tokens
        return [sequences * longest for sequences, longest in zip(self.sequences, self.longest)]

    def own_sizes(self) -> list[int]:
        """Returns the size of each single piece as counted by the limit."""
        return self.own_costs() if self.by_tokens and self.padded else self.sizes

    def spread(self, batches: list[list[int]], count: int) -> None:
        """
        Splits the largest of some micro-batches in two until there are `count`; if nothing can be split, empty ones are
        added.

        Args:
            batches (`list[list[int]]`): Piece indices of each; changed in place.
            count (`int`): Wanted number of micro-batches.
        """
        costs = [self.cost(batch) if len(batch) > 1 else -1 for batch in batches]
        while len(batches) < count:
            largest = max(range(len(batches)), key=costs.__getitem__, default=None)
            if largest is None or costs[largest] < 0:
                batches += [[] for _ in range(count - len(batches))]
                return
            batch = sorted(batches[largest], key=lambda k: (self.longest[k], self.tokens[k], k))
            cut = min(range(1, len(batch)), key=lambda end: max(self.cost(batch[:end]), self.cost(batch[end:])))
            batches[largest : largest + 1] = batch[:cut], batch[cut:]
            costs[largest : largest + 1] = [self.cost(half) if len(half) > 1 else -1 for half in batches[largest:][:2]]
