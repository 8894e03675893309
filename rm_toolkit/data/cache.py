"""The cache of the datasets library: removes the partial files of killed processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..output.process_files import remove_left_by_processes


if TYPE_CHECKING:
    from datasets import Dataset


def remove_left_beside(rows: Dataset) -> None:
    """Removes partial files of killed processes from the part of the cache that has these rows."""
    for folder in {Path(file["filename"]).parent for file in rows.cache_files}:
        remove_left_by_processes(folder)
