"""Which pairs are computed together: micro-batches filled by pairs or by tokens, the pairs of a prompt side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .prefixes import SHARING_OVERHEAD, common_prefix
from .tokenization import TokenizedPreferences


@dataclass
class Filler:
    """
    Fills micro-batches up to a limit. A group that does not fit into one is split, and its prompt computed again.

    Args:
        data (`TokenizedPreferences`): The pairs.
        pairs (`int`): Pairs of a micro-batch at most; not used where `tokens` is given.
        tokens (`int`, *optional*): Tokens of a micro-batch at most: those of the flat row, or with padding.
        shared (`bool`): Whether a shared beginning is counted once and padding not at all.
    """

    data: TokenizedPreferences
    pairs: int
    tokens: int | None = None
    shared: bool = False
    _prefix: np.ndarray | None = field(default=None, repr=False)

    def fill(self, groups: list[np.ndarray]) -> list[np.ndarray]:
        """
        Args:
            groups (`list[np.ndarray]`): Numbers of the pairs of each prompt.

        Returns:
            `list[np.ndarray]`: Numbers of the pairs of each micro-batch; a single pair over the limit makes one too.
        """
        batches: list[_Contents] = []
        for group in groups:
            for piece in self._pieces(group):
                added = self._contents(piece)
                # First fit: what a split group or an odd one leaves free is used by a later one.
                target = next((batch for batch in batches if self._cost(batch, added) <= self._limit), None)
                if target is None:
                    batches.append(added)
                else:
                    target.add(added)
        return [np.concatenate(batch.pairs) for batch in batches]

    @property
    def _limit(self) -> int:
        return self.pairs if self.tokens is None else self.tokens

    def _pieces(self, group: np.ndarray) -> list[np.ndarray]:
        if self._cost(self._contents(group)) <= self._limit:
            return [group]
        pieces, begin = [], 0
        for end in range(1, len(group) + 1):
            if end - begin > 1 and self._cost(self._contents(group[begin:end])) > self._limit:
                pieces.append(group[begin : end - 1])
                begin = end - 1
        return [*pieces, group[begin:]]

    def _contents(self, group: np.ndarray) -> _Contents:
        if self.tokens is None:
            return _Contents([group], len(group), 0, 0, 0)
        sequences = np.unique(np.concatenate([self.data.better[group], self.data.worse[group]]))
        lengths = self.data.lengths[sequences]
        saved = 0
        if self.shared:
            shared = int(self.prefix[self.data.prompt[group[0]]])
            saved = max(0, (len(sequences) - 1) * shared - SHARING_OVERHEAD)
        return _Contents([group], len(group), len(sequences), int(lengths.max()), int(lengths.sum()) - saved)

    def _cost(self, batch: _Contents, added: _Contents | None = None) -> int:
        both = [batch] if added is None else [batch, added]
        if self.tokens is None:
            return sum(part.num_pairs for part in both)
        if self.shared:
            return sum(part.num_tokens for part in both)
        return sum(part.num_sequences for part in both) * max(part.longest for part in both)

    @property
    def prefix(self) -> np.ndarray:
        """Tokens that the sequences of each prompt have in common, `np.ndarray` of shape `(num_prompts,)`."""
        if self._prefix is None:
            data = self.data
            self._prefix = np.full(int(data.prompt.max(initial=-1)) + 1, np.iinfo(np.int64).max)
            for better, worse, prompt in zip(data.better, data.worse, data.prompt):
                common = common_prefix(data.sequence(better), data.sequence(worse))
                self._prefix[prompt] = min(self._prefix[prompt], common)
        return self._prefix


@dataclass
class _Contents:
    """What a micro-batch holds so far."""

    pairs: list[np.ndarray]
    num_pairs: int
    num_sequences: int
    longest: int
    num_tokens: int

    def add(self, other: _Contents) -> None:
        self.pairs.extend(other.pairs)
        self.num_pairs += other.num_pairs
        self.num_sequences += other.num_sequences
        self.longest = max(self.longest, other.longest)
        self.num_tokens += other.num_tokens
