"""Prompts divided into parts of about equal size for cross-validation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..errors import InputError


def deal_prompts(prompts: Sequence[str], number: int, seed: int) -> np.ndarray:
    """
    Returns the part, from 0, of each row; no prompt is in two parts.

    Args:
        prompts (`Sequence[str]` of `num_rows`): A key per row; rows of one prompt have the same.
        number (`int`): Number of parts.
        seed (`int`): Prompts are assigned in an order that depends only on the seed and the prompts, each to the part
            with the fewest rows.

    Raises:
        `InputError`: if there are fewer prompts than parts.
    """
    sizes = Counter(prompts)
    if len(sizes) < number:
        raise InputError(f"the data have {len(sizes):,} prompts; {number} parts need at least {number}.")
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    filled, part_of = [0] * number, {}
    for key in order:
        part_of[key] = min(range(number), key=filled.__getitem__)
        filled[part_of[key]] += sizes[key]
    return np.array([part_of[key] for key in prompts], dtype=np.int64)
