"""Fingerprints: those under which `datasets` caches our rows, which also change with this code, and those of the rows."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset

# The columns that a model learns from; adding tags does not change the fingerprint.
CONTENT_COLUMNS = (
    "prompt",
    "chosen",
    "rejected",
    "completions",
    "scores",
    "score_chosen",
    "score_rejected",
    "margin",
    "tools",
    "chat_template_kwargs",
    "chosen_ids",
    "rejected_ids",
    "chosen_input_ids",
    "rejected_input_ids",
)
BATCH_SIZE = 1000


def fingerprint(*parts: Any) -> str:
    """
    Returns 32 hex digits over the parts (by their `repr`) and the data modules of this package.

    `datasets` identifies a function of a package only by its name, so it would reuse rows cached by an older version.
    """
    content = repr((*parts, _code_digest()))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def derived(dataset: Dataset, *parts: Any) -> str:
    """Returns the fingerprint of a dataset derived from another one as the parts describe."""
    return fingerprint(dataset._fingerprint, *parts)


def content_fingerprint(dataset: Dataset) -> str:
    """Returns 16 hex digits over texts, scores and their order; the same on every machine."""
    digest = hashlib.sha256()
    columns = [name for name in CONTENT_COLUMNS if name in dataset.column_names]
    for batch in dataset.select_columns(columns).iter(BATCH_SIZE):
        digest.update(json.dumps(batch, sort_keys=True).encode("ascii"))
    return digest.hexdigest()[:16]


@functools.cache
def _code_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
