"""Lays sequences out in one flat row without padding: a shared prefix once, then the rest of each sequence."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

from .shared_layout import SharedLayout


# Cost of one more cluster of sequences in attention calls, as a number of computed tokens: smaller savings are not used.
SHARING_OVERHEAD = 16
COMPARED_AT_ONCE, PAIRS_AT_ONCE = 64, 1 << 14  # tokens of each pair, and number of pairs


@dataclass
class FlatRow:
    """
    Sequences laid out in one row.

    Args:
        input_ids (`np.ndarray` of shape `(num_tokens,)`): Token ids; a shared prefix occurs once.
        position_ids (`np.ndarray` of shape `(num_tokens,)`): Position of each token within its sequence.
        prefix_start (`np.ndarray` of shape `(num_sequences,)`): Where the prefix of each sequence begins in the row.
        prefix_length (`np.ndarray` of shape `(num_sequences,)`): Number of its tokens there.
        rest_start (`np.ndarray` of shape `(num_sequences,)`): Where the tokens after the prefix begin.
        layout (`SharedLayout`): Which tokens see which.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    prefix_start: np.ndarray
    prefix_length: np.ndarray
    rest_start: np.ndarray
    layout: SharedLayout

    def index(self, sequence: int, positions: np.ndarray) -> np.ndarray:
        """Places in the row of the tokens at `positions` of a sequence."""
        inside = positions < self.prefix_length[sequence]
        after = self.rest_start[sequence] - self.prefix_length[sequence] + positions
        return np.where(inside, self.prefix_start[sequence] + positions, after)


def flat_row(sequences: list[np.ndarray], adapters: np.ndarray | None = None) -> FlatRow:
    """
    Lays sequences out in one row; those with a long common beginning share it.

    Args:
        sequences (`list[np.ndarray]`): Token ids of each; none is empty.
        adapters (`np.ndarray` of shape `(num_sequences,)`, *optional*): Sequences share with those of their adapter alone,
            and the adapters follow each other in ascending order.

    Returns:
        `FlatRow`: All token ids of all sequences; those of a shared prefix occur once.
    """
    count = len(sequences)
    prefix_start, prefix_length, rest_start = (np.zeros(count, dtype=np.int64) for _ in range(3))
    pieces, positions, segments = [], [], []
    end = 0

    def place(ids: np.ndarray, first_position: int, prefix: tuple[int, int]) -> int:
        nonlocal end
        begin, end = end, end + len(ids)
        if len(ids):
            pieces.append(ids)
            positions.append(np.arange(first_position, first_position + len(ids)))
            segments.append((begin, end, *prefix))
        return begin

    order, common = prefix_order(sequences, adapters)
    for first, last, shared in clusters(common):
        members = order[first:last]
        begin = place(sequences[members[0]][:shared], 0, (0, 0))
        for k in members:
            prefix_start[k], prefix_length[k] = begin, shared
            rest_start[k] = place(sequences[k][shared:], shared, (begin, begin + shared) if shared else (0, 0))
    return FlatRow(
        np.concatenate(pieces).astype(np.int64),
        np.concatenate(positions),
        prefix_start,
        prefix_length,
        rest_start,
        SharedLayout(np.array(segments, dtype=np.int64)),
    )


def prefix_order(sequences: list[np.ndarray], adapters: np.ndarray | None = None) -> tuple[list[int], np.ndarray]:
    """
    Orders sequences so that those that can share a prefix are neighbors.

    Args:
        sequences, adapters: As in [`flat_row`].

    Returns:
        `tuple`: Indices of the sequences in that order, and `np.ndarray` of shape `(num_sequences - 1,)`: the number of
        tokens that each shares with the next one, 0 if that has another adapter.
    """
    order = lexicographic_order(sequences)
    if adapters is not None:
        order.sort(key=adapters.__getitem__)  # stable: lexicographic within each adapter
    common = common_prefixes([sequences[k] for k in order])
    if adapters is not None:
        common[np.diff(adapters[order]) != 0] = 0
    return order, common


def lexicographic_order(sequences: list[np.ndarray]) -> list[int]:
    """Indices of the sequences in the order of their token ids, so that those with a common beginning are neighbors."""
    keys = [ids.astype(">u4").tobytes() for ids in sequences]  # big-endian bytes compare as the numbers do
    return sorted(range(len(sequences)), key=keys.__getitem__)


def common_prefixes(ordered: list[np.ndarray]) -> np.ndarray:
    """
    Number of tokens that each sequence shares with the next one.

    Returns:
        `np.ndarray` of shape `(num_sequences - 1,)`.
    """
    return np.array([common_prefix(a, b) for a, b in itertools.pairwise(ordered)], dtype=np.int64)


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the longest common beginning of two sequences."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length


def common_beginnings(ids: np.ndarray, offsets: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """
    Length of the longest common beginning of many pairs of sequences, compared in blocks of tokens.

    Args:
        ids (`np.ndarray` of shape `(total_tokens,)`), offsets (`np.ndarray` of shape `(num_sequences + 1,)`): As in
            [`~rm_toolkit.batches.tokenization.TokenizedPreferences`].
        one, other (`np.ndarray` of shape `(num_pairs,)`): The two sequences of each pair.

    Returns:
        `np.ndarray` of shape `(num_pairs,)`.
    """
    if len(one) > PAIRS_AT_ONCE:
        cuts = np.arange(PAIRS_AT_ONCE, len(one), PAIRS_AT_ONCE)
        parts = zip(np.split(one, cuts), np.split(other, cuts))
        return np.concatenate([common_beginnings(ids, offsets, *part) for part in parts])
    first, second = offsets[one], offsets[other]
    length = np.minimum(offsets[np.add(one, 1)] - first, offsets[np.add(other, 1)] - second)
    common = np.zeros(len(length), dtype=np.int64)
    open_pairs, column = np.flatnonzero(length > 0), np.arange(COMPARED_AT_ONCE)
    while len(open_pairs):
        where = common[open_pairs, None] + column
        inside = where < length[open_pairs, None]
        where[~inside] = 0
        equal = inside & (ids[first[open_pairs, None] + where] == ids[second[open_pairs, None] + where])
        common[open_pairs] += np.where(equal.all(axis=1), COMPARED_AT_ONCE, equal.argmin(axis=1))
        open_pairs = open_pairs[equal.all(axis=1)]
    return common


def clusters(common: np.ndarray) -> list[tuple[int, int, int]]:
    """
    Splits sequences in lexicographic order into clusters so that the most tokens are saved.

    Args:
        common (`np.ndarray` of shape `(num_sequences - 1,)`): From [`common_prefixes`].

    Returns:
        `list[tuple[int, int, int]]`: Begin and end (exclusive) of each cluster, and the number of tokens they share.
    """

    # One pass with a stack of the open prefixes, where the longest close first. Not recursive, because nesting can be as
    # deep as there are sequences (growing prefixes of one text), deeper than Python's recursion limit.
    parts: list[tuple[int, int, int]] = []
    open_prefixes: list[_OpenPrefix] = []
    for sequence, following in enumerate([*common.tolist(), -1]):
        done = _OpenPrefix(shared=0, first=sequence, first_part=len(parts))
        parts.append((sequence, sequence + 1, 0))
        while open_prefixes and open_prefixes[-1].shared > following:
            saved, done = done.saved, open_prefixes.pop()
            done.saved += saved
            together = (sequence - done.first) * done.shared - SHARING_OVERHEAD
            if together > done.saved:
                done.saved = together
                parts[done.first_part :] = [(done.first, sequence + 1, done.shared)]
        if open_prefixes and open_prefixes[-1].shared == following:
            open_prefixes[-1].saved += done.saved
        elif following >= 0:
            open_prefixes.append(dataclasses.replace(done, shared=following))
    return parts


@dataclass
class _OpenPrefix:
    """Sequences from `first` on that share this many tokens; `saved` by the clusters from `first_part` on."""

    shared: int
    first: int
    first_part: int
    saved: int = 0
