"""Columns of numbers and tags for a page: typed arrays in base64, a few bytes per row."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np


def packed(values: np.ndarray) -> dict[str, str]:
    """
    Returns a column of numbers for the page, in the smallest exact type.

    Args:
        values (`np.ndarray` of one dimension): Integers from 0 to 2**32 - 1, bools or floats.
    """
    if values.dtype.kind in "iub":
        highest = int(values.max()) if len(values) else 0
        kind = next(kind for kind in ("u1", "u2", "u4") if highest <= np.iinfo(kind).max)
    else:
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        kind = "f4" if np.array_equal(single, values, equal_nan=True) else "f8"
    return {"type": kind, "data": base64.b64encode(values.astype(f"<{kind}").tobytes()).decode("ascii")}


def coded(values: Iterable[str | None]) -> dict[str, Any]:
    """
    Returns a column of few distinct strings for the page.

    Args:
        values (`Iterable[str]`, *optional* each): One per row.

    Returns:
        `dict`: The distinct `values` in alphabetical order, and the `codes` of the rows: 0 for none, else
            one more than the index of their value.
    """
    values = [value or None for value in values]
    distinct = sorted({value for value in values if value is not None})
    numbers = {None: 0, **{value: number for number, value in enumerate(distinct, 1)}}
    return {"values": distinct, "codes": packed(np.array([numbers[value] for value in values], dtype=np.uint32))}
