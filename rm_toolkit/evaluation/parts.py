"""Prompts dealt into parts of about equal size, so that what is fitted to some of them can be judged by the others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..errors import InputError


def deal_prompts(prompts: Sequence[str], number: int, seed: int) -> np.ndarray:
    """
    Returns the part, from 0, of each row: no prompt is in two parts.

    Args:
        prompts (`Sequence[str]` of `num_rows`): What rows of one prompt share.
        number (`int`): Number of parts.
        seed (`int`): Prompts are dealt in an order that depends on it and on them alone, each to the part with the fewest
            rows.

    Raises:
        `InputError`: if there are fewer prompts than parts.
    """
    sizes = Counter(prompts)
    if len(sizes) < number:
        raise InputError(f"the data have {len(sizes):,} prompts; that is not enough for {number} parts.")
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    filled, part_of = [0] * number, {}
    for key in order:
        part_of[key] = min(range(number), key=filled.__getitem__)
        filled[part_of[key]] += sizes[key]
    return np.array([part_of[key] for key in prompts], dtype=np.int64)
