"""Fingerprints under which `datasets` caches our rows: they change with the input and with this code."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset


def fingerprint(*parts: Any) -> str:
    """
    Returns 32 hex digits over the parts (by their `repr`) and the data modules of this package.

    `datasets` itself sees a function of a package by its name alone, so rows cached by an older version would be read
    again.
    """
    content = repr((*parts, _code_digest()))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def derived(dataset: Dataset, *parts: Any) -> str:
    """Returns the fingerprint of what is made from a dataset in the way that the parts describe."""
    return fingerprint(dataset._fingerprint, *parts)


@functools.cache
def _code_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
