"""Which tokens of a flat row attend to which: a segment to itself, and to the segment that it continues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor


T = TypeVar("T")


@dataclass
class PackedSequences:
    """
    A row's segments as sequences of queries, each with the keys of its prefix and of itself.

    Args:
        query_ends, key_ends (`torch.IntTensor` of shape `(num_segments + 1,)`): 0, then the ends of the queries and of
            the keys of each segment.
        keys (`torch.IntTensor` of shape `(num_keys,)`): Index in the row of the token of each key.
        most_queries, most_keys (`int`): Largest numbers in a segment.
    """

    query_ends: Tensor
    key_ends: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int


@dataclass
class SharedLayout:
    """
    Which tokens of a flat row attend to which: a segment to itself causally, and to its whole prefix segment.

    Args:
        segments (`np.ndarray` of shape `(num_segments, 4)`): Begin and end of each segment in the row, then begin and
            end of the segment that it continues (two zeros where it continues none), which continues none itself. In
            the order of the row, without gaps; the segments that continue one prefix directly follow it.
        needed (`torch.LongTensor`, *optional*): Tokens whose final hidden state is read, each once; all by default.
    """

    segments: np.ndarray
    needed: Tensor | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def kept(self, key: Any, make: Callable[[], T]) -> T:
        """The result of the first call of `make` for this key: inputs of attention are made once for all layers."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the row."""
        return int(self.segments[-1, 1])

    @property
    def longest(self) -> int:
        """Number of tokens of the longest sequence, prefix included."""
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
        """Number of (query, key) pairs that are computed, a measure of the cost of attention."""
        own = self.segments[:, 1] - self.segments[:, 0]
        prefix = self.segments[:, 3] - self.segments[:, 2]
        return int((own * (own + 1) // 2 + own * prefix).sum())

    def packed(self, device: torch.device) -> PackedSequences:
        """The row for attention over packed sequences; made once, without waiting for the device."""
        return self.kept(("packed", str(device)), lambda: self._packed(device))

    def _packed(self, device: torch.device) -> PackedSequences:
        begin, end, prefix_begin, prefix_end = self.segments.T
        queries, prefix = end - begin, prefix_end - prefix_begin
        key_ends = np.cumsum(queries + prefix)
        # Consecutive slices of the row: for each segment first its prefix, then itself.
        first = np.stack([prefix_begin, begin], axis=1).ravel()
        length = np.stack([prefix, queries], axis=1).ravel()
        keys = np.repeat(first - np.cumsum(length) + length, length) + np.arange(key_ends[-1])

        def on_device(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.int32)).to(device, non_blocking=True)

        return PackedSequences(
            on_device(np.append(0, end)),
            on_device(np.append(0, key_ends)),
            on_device(keys),
            int(queries.max()),
            int((queries + prefix).max()),
        )

    def to(self, device: torch.device) -> SharedLayout:
        """Returns the layout with its tensors on `device`, so that layers do not wait for them."""
        if self.needed is None or self.needed.device == torch.device(device):
            return self
        return SharedLayout(self.segments, self.needed.to(device, non_blocking=True))

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """
        For each token of the row: the begin of its segment, and the begin and end of that segment's prefix.

        Returns:
            Three `torch.IntTensor` of shape `(num_tokens,)`; a token `q` attends to `k <= q` with `k >= own` or
            `begin <= k < end`.
        """

        def make() -> Tensor:
            table = np.repeat(self.segments, self.segments[:, 1] - self.segments[:, 0], axis=0)
            return torch.from_numpy(table[:, [0, 2, 3]].T.astype(np.int32).copy()).to(device)

        own, begin, end = self.kept(("bounds", str(device)), make)
        return own, begin, end

    def dense_mask(self, window: int | None = None) -> Tensor:
        """
        The mask as `torch.BoolTensor` of shape `(num_tokens, num_tokens)`, only for tests and small rows.

        Args:
            window (`int`, *optional*): Number of tokens of its sequence that a token attends to, itself included.
        """
        own, begin, end = (bound[:, None] for bound in self.bounds(torch.device("cpu")))
        key = torch.arange(self.num_tokens)
        query = key[:, None]
        inside = (key >= own) & (key <= query)
        before = (key >= begin) & (key < end) & (key < query)
        if window is not None:
            inside &= query - key < window
            before &= (query - own + end) - key < window
        return inside | before
