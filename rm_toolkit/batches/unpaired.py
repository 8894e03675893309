"""Texts that are in no pair but in the LM loss, and rows without a pair: they join the step of the preceding pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


# Of `TokenizedPreferences.unpaired`: two neighboring texts (or one twice), their prompt, the preceding pair.
FIRST, SECOND, PROMPT, AFTER = range(4)


def side_by_side(texts: Sequence[int], prompt: int, after: int) -> list[tuple[int, int, int, int]]:
    """
    Returns the lines of the texts of one row: each next to the following one, like the pairs of a row.

    Args:
        texts (`Sequence[int]`): Their indices; each of them counts once.
        prompt (`int`): Number of their prompt.
        after (`int`): The pair whose step they join.
    """
    texts = list(dict.fromkeys(texts))
    beside = texts[1:] or texts
    return [(first, second, prompt, after) for first, second in zip(texts, beside)]


def joining(after: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Finds the entries that join the step of some pairs.

    Args:
        after (`np.ndarray`): The pair that each line joins, ascending.
        pairs (`np.ndarray`): Indices of the pairs of the step.

    Returns:
        `tuple`: Positions in `after`, and for each the position in `pairs` of the pair that it joins; in the order of
        `pairs`.
    """
    begin = np.searchsorted(after, pairs, side="left")
    count = np.searchsorted(after, pairs, side="right") - begin
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    which = np.repeat(begin - (ends - count), count) + np.arange(total)
    return which, np.repeat(np.arange(len(pairs)), count)


def renumbered(after: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """
    Returns the preceding pairs after some pairs are left out.

    Args:
        after (`np.ndarray`): Pair indices.
        kept (`np.ndarray` of shape `(num_pairs,)`): Which of all pairs are kept.
    """
    return np.maximum(np.cumsum(kept)[after] - 1, 0) if len(after) else after


def at_pairs(unpaired: np.ndarray, tied_rows: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns the `unpaired` and the `tied_rows` of some pairs, which become pairs 0, 1, 2, …

    Args:
        unpaired, tied_rows (`np.ndarray`): Those of the data that the pairs come from.
        pairs (`np.ndarray`): Indices of the pairs.
    """
    which, places = joining(unpaired[:, AFTER], pairs)
    lines = unpaired[which].astype(np.int64)
    lines[:, AFTER] = places
    return lines, joining(tied_rows, pairs)[1]
