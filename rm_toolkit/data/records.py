"""
Raw records, one at a time, from JSON, JSON Lines, CSV, TSV, Parquet, a saved dataset or the Hub; the type of a file is
recognized by its first bytes.

Every record comes with its `Place`, so that a later error can name the file and the row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, class_and_line, did_you_mean, name_list
from .exact_json import use_exact_json
from .files import GZIP_MAGIC, kind_of, open_binary
from .json_files import read_json
from .messages import null_stripper
from .places import Place, RowPlace
from .tables import read_cells, read_parquet


__all__ = [
    "GZIP_MAGIC",
    "Place",
    "RecordFile",
    "RowPlace",
    "is_saved_dataset",
    "looks_like_hub_id",
    "missing_file",
    "open_binary",
    "open_dataset",
    "read_records",
]

READERS = {"json": read_json, "table": read_cells, "parquet": read_parquet}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class RecordFile:
    """
    One input: a file, a folder that `datasets` saved, or a Hub id.

    Args:
        path (`str`): Path as given by the user.
        split (`str`, *optional*): Split of a saved dataset or a Hub dataset.
    """

    path: str
    split: str | None = None

    def records(self) -> Iterator[tuple[Place, dict[str, Any] | InputError]]:
        """Yields the records, see [`read_records`]."""
        return read_records(self)

    def fingerprint(self) -> str:
        """
        Returns a string that changes with the content: path, size and time of a file; otherwise the fingerprint of
        datasets.
        """
        path = Path(self.path)
        if path.is_file():
            status = path.stat()
            return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        return f"{path}:{self.split}:{open_dataset(self.path, self.split)._fingerprint}"


def read_records(source: RecordFile) -> Iterator[tuple[Place, dict[str, Any] | InputError]]:
    """
    Yields the records of one input. JSON Lines, tables and saved datasets are streamed; other JSON is read whole.

    For a line that cannot be read, yields the error itself, so that the reader can count it and continue.

    Raises:
        `InputError`: if the input cannot be read at all: no such file, not UTF-8, a broken array, no rows.
    """
    path = Path(source.path)
    if path.is_file():
        records = READERS[kind_of(source.path)](source.path)
    else:
        dataset = open_dataset(source.path, source.split)
        strip = null_stripper(getattr(dataset, "features", None)) or (lambda row: row)
        records = ((Place(source.path, "row", number), strip(row)) for number, row in enumerate(dataset, 1))
    empty = True
    for place, record in records:
        empty = False
        yield place, an_object(record, place)
    if empty:
        raise InputError(f"{source.path}: the file has no rows. Give one that has.")


def an_object(record: Any, place: Place) -> dict[str, Any] | InputError:
    """Returns a record, or an error if it is not an object."""
    if isinstance(record, dict | InputError):
        return record
    return place.error(f"expected an object like {{…}}, got {_json_type(record)}.")


def open_dataset(path: str, split: str | None = None) -> Any:
    """
    Opens a folder of `save_to_disk`, or a dataset of the Hub.

    Returns:
        `datasets.Dataset`, or `datasets.DatasetDict` if it has several splits and `split` is `None`.

    Raises:
        `InputError`: if there is neither, or no such split.
    """
    import datasets

    use_exact_json()
    if is_saved_dataset(path):
        try:
            dataset = datasets.load_from_disk(path)
        except Exception as error:  # pyarrow raises various errors for a partly copied folder
            raise InputError(f"{path}: the saved dataset cannot be read ({error}). Build or copy it again.") from error
    elif Path(path).exists() and not Path(path).is_dir():
        raise InputError(
            f"{path}: this is a pipe or a device, which may never end. Write the rows into a file, and give that file."
        )
    elif Path(path).exists():
        raise InputError(
            f"{path}: this folder has no saved dataset (no dataset_dict.json, no state.json). "
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
    there is no local folder with the owner's name.
    """
    if not HUB_ID.fullmatch(path) or re.search(r"\.(jsonl?|gz|parquet|csv|tsv|txt|xlsx?)$", path):
        return False
    return "/" not in path or not Path(path).parent.is_dir()


def missing_file(path: str) -> InputError:
    """Returns the error for a path that does not exist, with the most similar name in that folder."""
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
            f"'{name}' is not a local file or folder, and the Hub returned no dataset of that name "
            f"({class_and_line(error)}). "
            "Check the spelling, or the connection and the login (`hf auth login`)."
        ) from error


def _json_type(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
