"""Finds values that a JSON column of `datasets` cannot store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def unstorable(value: Any) -> str | None:
    """
    Describes what in a JSON value cannot be stored; `None` if all of it can.

    Args:
        value: Value of messages, tools or template variables.
    """
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if _is_unicode(value) else "half of a surrogate pair, which is not a character"
    if isinstance(value, int):  # larger ones break reading the folder with plain `datasets`
        return None if -(2**63) <= value < 2**64 else f"the number {value}, which has more than 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value}, which JSON cannot store"
    parts: Iterable[Any] = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
    return next((problem for problem in map(unstorable, parts) if problem is not None), None)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
