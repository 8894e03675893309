"""What is said of a stream that cannot be read, or of a row of it that cannot be used."""

from __future__ import annotations

from typing import Any

import pyarrow
from datasets.exceptions import DatasetsError

from ..data.records import RowPlace
from ..errors import InputError


class StreamPlace(RowPlace):
    """A row of a stream that a user made: no flag of ours leaves it out."""

    def error(self, problem: str, remedy: str | None = None) -> InputError:
        return super().error(problem, "Fix the row, or filter it out of the stream." if remedy is None else remedy)


class ReadErrors:
    """Whatever the reading of a shard raises becomes an error that says how far the stream was read."""

    def __init__(self, name: str, number: int):
        self.name, self.number = name, number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (OSError, ValueError, pyarrow.ArrowException, DatasetsError)):
            if isinstance(error, InputError):
                return
            raise InputError(
                f"data set '{self.name}': the stream cannot be read after row {self.number} "
                f"({type(error).__name__}: {error}). Fix the file or the connection, and resume from the last checkpoint."
            ) from error
