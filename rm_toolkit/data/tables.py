"""Rows of tables: CSV and TSV, read by `datasets` with every cell as text, and Parquet."""

from __future__ import annotations

import ast
import contextlib
import csv
import glob
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import InputError, first_line, name_list
from .files import damaged_gzip, not_utf8, open_binary, separator_of
from .messages import decode_json, holds_json, null_stripper
from .places import Place
from .table_lines import TableLines, TablePlace


ROWS_AT_ONCE = 1000
# For Parquet, fewer rows are read together if they are large.
PARQUET_ROWS, PARQUET_BYTES = 200, 16_000_000
OTHER_SEPARATORS = (";", "\t", "|", ",")  # Excel writes ';' in locales with ',' in numbers


# Columns of lists: a cell is JSON, or a list as printed by Python.
LISTS = frozenset(
    ["completions", "responses", "answers", "generations", "candidates", "scores", "ranks", "ratings", "rewards"]
)


class Cell(str):
    """Text of a CSV cell: used as a number where one is expected, since CSV has no types."""

    __slots__ = ()


def read_cells(path: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """
    Yields the rows of a CSV or TSV file; an empty cell is null, and a list in a column of lists is one.

    Raises:
        `InputError`: for a table without columns, rows with more cells than columns, or text that is not UTF-8.
    """
    import datasets

    names, separator = _header(path)
    if not names:
        return
    lines = TableLines(path, separator)
    with _quiet_reader():
        try:
            rows = datasets.load_dataset(
                "csv",
                data_files=[glob.escape(path)],
                split="train",
                streaming=True,
                sep=separator,
                features=datasets.Features({name: datasets.Value("string") for name in names}),
                keep_default_na=False,
                encoding="utf-8-sig",
                chunksize=ROWS_AT_ONCE,
            )
            for number, row in enumerate(rows, 1):
                place = TablePlace(path, "row", number, tuple(text or "" for text in row.values()), lines)
                yield place, {name: _value(name, text) for name, text in row.items()}
        except UnicodeDecodeError as error:
            problem, remedy = not_utf8(error)
            raise InputError(f"{path}: {problem} {remedy}") from error
        except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
            cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
            raise InputError(
                f"{path}: not a readable table ({first_line(cause or error)}). Put quotes around cells that contain a "
                "separator or a line break."
            ) from error


def _value(name: str, text: str | None) -> Any:
    if not text:
        return None
    if name in LISTS and text.lstrip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                return parse(text.strip())
    return Cell(text)


def _header(path: str) -> tuple[list[str], str]:
    """The names of the columns and the separator; the first row must not be longer than the names."""
    separator = separator_of(path) or ","
    try:
        with open_binary(path) as raw:
            start = raw.read(1 << 20)
    except EOFError as error:
        raise damaged_gzip(path, error) from error
    text = start.decode("utf-8-sig", "replace")
    rows = (row for row in csv.reader(io.StringIO(text), delimiter=separator) if row)
    names = next(rows, [])
    if len(names) == 1:
        other = next((mark for mark in OTHER_SEPARATORS if mark != separator and mark in names[0]), None)
        if other is not None:
            separator = other
            rows = (row for row in csv.reader(io.StringIO(text), delimiter=separator) if row)
            names = next(rows, [])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the column {name_list(twice)} is given twice in the first line. Rename one.")
    try:
        first = next(rows, [])
    except csv.Error:  # a cell too long for this module: checked by the reader of the whole table
        first = []
    if len(first) > len(names):
        place = TablePlace(path, "row", 1, tuple(first), TableLines(path, separator))
        raise InputError(
            f"{path}, {place.where}: {len(first)} cells, but the first line names {len(names)} columns. Put quotes around cells "
            "that contain a separator."
        )
    return names, separator


@contextlib.contextmanager
def _quiet_reader() -> Iterator[None]:
    """Hides the log line of `datasets`, whose reader logs an error before it raises it."""
    log = logging.getLogger("datasets.packaged_modules.csv.csv")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def read_parquet(path: str) -> Iterator[tuple[Place, Any]]:
    """
    Yields the rows of a Parquet file, in batches.

    Raises:
        `InputError`: if it cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        # Pre-buffering would keep every row group in memory: as much as the size of the file.
        table = pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False)
        read = _parquet_reader(table.schema_arrow)
        stored = sum(table.metadata.row_group(k).total_byte_size for k in range(table.num_row_groups))
        at_once = _rows_at_once(table.metadata.num_rows, stored)
        for batch in table.iter_batches(batch_size=at_once, use_threads=False):
            # A value stored once for many rows is read for each of them.
            few = _rows_at_once(len(batch), batch.nbytes)
            for begin in range(0, len(batch), few):
                for row in batch.slice(begin, few).to_pylist():
                    number += 1
                    yield Place(path, "row", number), read(row)
    except (pyarrow.ArrowException, OSError) as error:  # `OSError` for damage in compressed data
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: not a readable Parquet file ({first_line(error)}). Download it again.") from error


def _rows_at_once(num_rows: int, num_bytes: int) -> int:
    """Number of Parquet rows to read together, from the number of rows and their total bytes."""
    return max(1, min(PARQUET_ROWS, PARQUET_BYTES * num_rows // max(num_bytes, 1)))


def _parquet_reader(schema: Any) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    """Returns a function that restores a Parquet row as it was written: parses JSON columns, removes Arrow's nulls."""
    from datasets import Features

    try:
        features = Features.from_arrow_schema(schema)
    except (ValueError, TypeError, NotImplementedError):  # a type unknown to `datasets`: left as it is
        return lambda row: row
    strip = null_stripper(features) or (lambda row: row)
    decoded = {name: kind for name, kind in features.items() if holds_json(kind)}
    return lambda row: strip({name: decode_json(value, decoded.get(name)) for name, value in row.items()})
