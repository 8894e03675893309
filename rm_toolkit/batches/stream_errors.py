"""Errors of a stream that cannot be read, or of a row of it that cannot be used."""

from __future__ import annotations

from typing import Any

import pyarrow
from datasets import IterableDataset
from datasets.exceptions import DatasetsError

from ..data.records import RowPlace
from ..errors import InputError


class StreamPlace(RowPlace):
    """A row of a stream that a user built; no option of ours can leave it out."""

    def error(self, problem: str, remedy: str | None = None) -> InputError:
        return super().error(problem, "Fix the row, or filter it out of the stream." if remedy is None else remedy)


class ReadErrors:
    """Turns any exception from reading a shard into an error that says how far the stream was read."""

    def __init__(self, name: str, number: int):
        self.name, self.number = name, number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (OSError, ValueError, pyarrow.ArrowException, DatasetsError)):
            if isinstance(error, InputError):
                return
            raise InputError(
                f"dataset '{self.name}': the stream cannot be read after row {self.number} "
                f"({type(error).__name__}: {error}). Fix the file or the connection, and resume from the last checkpoint."
            ) from error


def check_shards(name: str, saved: int | None, dataset: IterableDataset) -> None:
    """
    Refuses a position in a stream whose shards have changed since: it would be another place.

    Args:
        name (`str`): Name of the dataset.
        saved (`int`, *optional*): Saved number of shards; `None` up to version 0.4.0, which read a file in one piece.
        dataset (`datasets.IterableDataset`): The current stream.

    Raises:
        `InputError`: if they differ.
    """
    if saved is None and getattr(dataset, "reads_ranges", False):
        raise InputError(
            f"dataset '{name}': the checkpoint is from version 0.4.0 or earlier, which read a JSON Lines file in one piece; "
            "now a large one is read in parts, in another order. Resume with that version, or start a new run."
        )
    if saved is not None and saved != dataset.num_shards:
        raise InputError(
            f"dataset '{name}' is not the one that the checkpoint was made with: it has {dataset.num_shards} shards, but "
            f"had {saved}. Resume with the same files."
        )
