"""Which tokens of a flat row see which: each segment itself, and the segment that it continues."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class SharedLayout:
    """
    Which tokens of a flat row see which: a segment sees itself causally, and the whole of its prefix segment.

    Args:
        segments (`np.ndarray` of shape `(num_segments, 4)`): Begin and end of each segment in the row, then begin and
            end of the segment that it continues (two zeros where it continues none). In the order of the row, without
            gaps; the segments that continue one prefix stand side by side, right after it.
        needed (`torch.LongTensor`, *optional*): Tokens whose final hidden state is read, each once; all by default.
        block_mask (`BlockMask`, *optional*): What FlexAttention reads; made once, at the first layer that needs it.
    """

    segments: np.ndarray
    needed: Tensor | None = None
    block_mask: Any = field(default=None, repr=False, compare=False)
    _bounds: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_tokens(self) -> int:
        """Tokens of the row."""
        return int(self.segments[-1, 1])

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, prefix included."""
        table = self.segments
        return int((table[:, 1] - table[:, 0] + table[:, 3] - table[:, 2]).max())

    def continued(self) -> np.ndarray:
        """
        Lists each run of segments that continue one prefix.

        Returns:
            `np.ndarray` of shape `(num_prefixes, 4)`: Begin and end of the run, begin and end of its prefix.
        """
        table = self.segments[self.segments[:, 3] > self.segments[:, 2]]
        if not len(table):
            return table
        first = np.flatnonzero(np.diff(table[:, 2], prepend=-1))
        last = np.append(first[1:], len(table)) - 1
        return np.stack([table[first, 0], table[last, 1], table[first, 2], table[first, 3]], axis=1)

    def attention_pairs(self) -> int:
        """How many (query, key) pairs of tokens are computed: a measure of what attention costs."""
        own = self.segments[:, 1] - self.segments[:, 0]
        prefix = self.segments[:, 3] - self.segments[:, 2]
        return int((own * (own + 1) // 2 + own * prefix).sum())

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """
        For each token of the row: where its segment begins, and where the prefix of that segment begins and ends.

        Returns:
            Three `torch.IntTensor` of shape `(num_tokens,)`; a token `q` sees `k <= q` with `k >= own` or
            `begin <= k < end`.
        """
        key = str(device)
        if key not in self._bounds:
            table = np.repeat(self.segments, self.segments[:, 1] - self.segments[:, 0], axis=0)
            self._bounds[key] = torch.from_numpy(table[:, [0, 2, 3]].T.astype(np.int32).copy()).to(device)
        own, begin, end = self._bounds[key]
        return own, begin, end

    def dense_mask(self) -> Tensor:
        """The mask as `torch.BoolTensor` of shape `(num_tokens, num_tokens)`: for tests and for small rows only."""
        own, begin, end = self.bounds(torch.device("cpu"))
        key = torch.arange(self.num_tokens)
        query = key[:, None]
        prefix = (key >= begin[:, None]) & (key < end[:, None])
        return (key <= query) & ((key >= own[:, None]) | prefix)
