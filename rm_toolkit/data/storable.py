"""What a JSON column of `datasets` does not hold: found before it is stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def unstorable(value: Any) -> str | None:
    """
    Returns what in a JSON value cannot be stored, in words; None where all of it can.

    Args:
        value: Of messages, tools or template variables, as JSON has them.
    """
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if _is_unicode(value) else "half of a surrogate pair, which is no character"
    if isinstance(value, int):  # larger ones stop whoever reads the folder with `datasets` alone
        return None if -(2**63) <= value < 2**64 else f"the number {value}, which has more than 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value}, which JSON has no form for"
    parts: Iterable[Any] = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
    return next((problem for problem in map(unstorable, parts) if problem is not None), None)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
