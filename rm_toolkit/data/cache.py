"""The cache of the datasets library: killed processes leave nothing in the part of it that is used again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..output.process_files import remove_left_by_processes


if TYPE_CHECKING:
    from datasets import Dataset


def remove_left_beside(rows: Dataset) -> None:
    """Removes what a killed process has left half-written in the part of the cache that these rows lie in."""
    for folder in {Path(file["filename"]).parent for file in rows.cache_files}:
        remove_left_by_processes(folder)
