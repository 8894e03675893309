"""
Raw records, one at a time, from JSON, JSON Lines, Parquet, a saved dataset or the Hub; gzip is seen by its first bytes.

Every record comes with its `Place`, so that whatever is found wrong with it later can name the file and the row.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import InputError, class_and_line, did_you_mean, name_list, one_line
from .messages import decode_json, holds_json, null_stripper


GZIP_MAGIC = b"\x1f\x8b"
MOST_OF_A_PROBLEM = 700  # characters: keys and values of the data stand in it
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Place:
    """Where a record stands: `item` of a JSON array, `line` of JSON Lines, `row` of a table; counted from 1."""

    file: str
    unit: str
    number: int

    def error(self, problem: str, remedy: str | None = None) -> InputError:
        """
        Returns (does not raise) the error that names this place.

        Args:
            problem (`str`): What is wrong, a sentence.
            remedy (`str`, *optional*): What to do; default: mend or drop the record.
        """
        if remedy is None:
            remedy = f"Mend or drop the {self.unit}, or pass --skip-invalid."
        problem = one_line(problem, MOST_OF_A_PROBLEM)
        return InputError(f"{self.file}, {self.unit} {self.number}: {problem} {remedy.strip()}".strip())


class RowPlace(Place):
    """A row of a data set that a user made: no flag of ours leaves it out."""

    def error(self, problem: str, remedy: str | None = None) -> InputError:
        """As in [`Place`]."""
        return super().error(problem, "Fix or remove the row." if remedy is None else remedy)


@dataclass(frozen=True)
class RecordFile:
    """
    One input: a file, a folder that `datasets` saved, or a Hub id.

    Args:
        path (`str`): As the user gave it.
        split (`str`, *optional*): Which split of a saved dataset or a Hub dataset.
    """

    path: str
    split: str | None = None

    def records(self) -> Iterator[tuple[Place, dict[str, Any] | InputError]]:
        """Yields the records, see [`read_records`]."""
        return read_records(self)

    def fingerprint(self) -> str:
        """Returns a text that changes when the content does: path, size and time of a file; datasets' own otherwise."""
        path = Path(self.path)
        if path.is_file():
            status = path.stat()
            return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        return f"{path}:{self.split}:{open_dataset(self.path, self.split)._fingerprint}"


def read_records(source: RecordFile) -> Iterator[tuple[Place, dict[str, Any] | InputError]]:
    """
    Yields the records of one input. JSON Lines, Parquet and saved datasets are streamed; a JSON array is read whole.

    A line that cannot be read comes as the error itself, so that the reader may count it and go on.

    Raises:
        `InputError`: if the input cannot be read at all: no such file, no UTF-8, a broken array, nothing in it.
    """
    path = Path(source.path)
    if path.is_file():
        records = _read_parquet(source.path) if path.suffix == ".parquet" else _read_json(source.path)
    else:
        dataset = open_dataset(source.path, source.split)
        strip = null_stripper(getattr(dataset, "features", None)) or (lambda row: row)
        records = ((Place(source.path, "row", number), strip(row)) for number, row in enumerate(dataset, 1))
    empty = True
    for place, record in records:
        empty = False
        if not isinstance(record, dict | InputError):
            record = place.error(f"expected an object like {{…}}, got {_json_type(record)}.")
        yield place, record
    if empty:
        raise InputError(f"{source.path}: the file holds no rows. Give one that does.")


def open_dataset(path: str, split: str | None = None) -> Any:
    """
    Opens a folder of `save_to_disk`, or a dataset of the Hub.

    Returns:
        `datasets.Dataset`, or `datasets.DatasetDict` where it has several splits and `split` is None.

    Raises:
        `InputError`: if there is neither, or no such split.
    """
    import datasets

    if is_saved_dataset(path):
        try:
            dataset = datasets.load_from_disk(path)
        except Exception as error:  # whatever a half-copied folder makes pyarrow raise
            raise InputError(f"{path}: the saved dataset cannot be read ({error}). Build or copy it again.") from error
    elif Path(path).exists():
        raise InputError(
            f"{path}: this folder holds no saved dataset (no dataset_dict.json, no state.json). "
            "Give a folder that `rm-toolkit build-data` or `save_to_disk` wrote, or a file."
        )
    elif looks_like_hub_id(path):
        dataset = _open_hub_dataset(path)
    else:
        raise missing_file(path)
    if isinstance(dataset, datasets.Dataset):
        return dataset
    if split is None:
        return dataset if len(dataset) > 1 else next(iter(dataset.values()))
    if split not in dataset:
        raise InputError(
            f"{path}: there is no split '{split}', only {name_list(dataset)}.{did_you_mean(split, dataset)}"
        )
    return dataset[split]


def is_saved_dataset(path: str) -> bool:
    """Whether `path` is a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    return any((Path(path) / name).is_file() for name in ("dataset_dict.json", "state.json"))


def looks_like_hub_id(path: str) -> bool:
    """
    Whether `path` can be a Hub id (`name` or `owner/name`) rather than a mistyped file: it does not end like one, and
    there is no local folder of the owner's name.
    """
    if not HUB_ID.fullmatch(path) or re.search(r"\.(jsonl?|gz|parquet|csv|txt)$", path):
        return False
    return "/" not in path or not Path(path).parent.is_dir()


def missing_file(path: str) -> InputError:
    """Returns the error for a path where nothing is, with the most similar name in that folder."""
    parent = Path(path).parent
    if not path.strip():
        return InputError("an input is an empty path; give a file, a folder or a Hub id.")
    if not parent.is_dir():
        return InputError(f"{path}: no such file, and no such folder '{parent}'.")
    return InputError(
        f"{path}: no such file.{did_you_mean(Path(path).name, [entry.name for entry in parent.iterdir()])}"
    )


def _open_hub_dataset(name: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name)
    except Exception as error:  # offline, unknown, gated, several configurations: each has its own class
        raise InputError(
            f"'{name}' is no file or folder here, and the Hub gave no dataset of that name "
            f"({class_and_line(error)}). "
            "Check the spelling, or the connection and the login (`hf auth login`)."
        ) from error


def _read_parquet(path: str) -> Iterator[tuple[Place, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        # Pre-buffering would hold every row group at once: as much memory as the file is long.
        table = pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False)
        read = _parquet_reader(table.schema_arrow)
        for batch in table.iter_batches(batch_size=200, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield Place(path, "row", number), read(row)
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}).") from error


def _parquet_reader(schema: Any) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    """Returns what makes of a row of Parquet the row that was written: columns of JSON read, Arrow's nulls taken out."""
    from datasets import Features

    try:
        features = Features.from_arrow_schema(schema)
    except (ValueError, TypeError, NotImplementedError):  # a type that `datasets` has no name for: left as it is
        return lambda row: row
    strip = null_stripper(features) or (lambda row: row)
    decoded = {name: kind for name, kind in features.items() if holds_json(kind)}
    return lambda row: strip({name: decode_json(value, decoded.get(name)) for name, value in row.items()})


def _read_json(path: str) -> Iterator[tuple[Place, Any]]:
    try:
        with open_binary(path) as file:
            head = _first_character(file)
            if head == b"":
                return
            if head == b"[":
                yield from _read_array(path, file)
            else:
                yield from _read_lines(path, file)
    except (EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the gzip file is damaged or cut short ({error}). Fetch it again.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error


def open_binary(path: str) -> IO[bytes]:
    """Opens a file for reading bytes, through gzip if it starts like one."""
    with open(path, "rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if zipped else open(path, "rb")


def _first_character(file: IO[bytes]) -> bytes:
    """Returns the first byte that is no white space (a byte-order mark counts as such); rewinds the file."""
    head = b""
    while head == b"":
        chunk = file.read(4096)
        if not chunk:
            break
        head = chunk.removeprefix(b"\xef\xbb\xbf").strip()[:1]
    file.seek(0)
    return head


def _read_array(path: str, file: IO[bytes]) -> Iterator[tuple[Place, Any]]:
    data = file.read()
    try:
        items = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: {' '.join(_not_utf8(error))}") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}). Mend the file there."
        ) from error
    del data
    for number, item in enumerate(items, 1):
        yield Place(path, "item", number), item


def _read_lines(path: str, file: IO[bytes]) -> Iterator[tuple[Place, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        place = Place(path, "line", number)
        try:
            yield place, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            yield place, place.error(*_not_utf8(error))
        except json.JSONDecodeError as error:
            problem = f"not valid JSON ({error.msg}). Every line must hold one whole object."
            yield place, InputError(f"{path}, line {number}, column {error.colno}: {problem}")


def _not_utf8(error: UnicodeDecodeError) -> tuple[str, str]:
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x}).", "Save the file in UTF-8."


def _json_type(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
