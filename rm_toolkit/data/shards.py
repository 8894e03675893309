"""The shards of a stream: files, parts of built folders and of Hub datasets, each read separately."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, class_and_line, name_list
from .line_ranges import line_ranges, read_range
from .messages import null_stripper
from .records import (
    Place,
    RecordFile,
    an_object,
    is_saved_dataset,
    looks_like_hub_id,
    missing_file,
    open_dataset,
    read_records,
)
from .schema import find_shape
from .sources import SourceOptions, find_source
from .specs import DatasetSpec


if TYPE_CHECKING:
    from datasets import IterableDataset


FILE_ENDINGS = ("jsonl", "jsonl.gz", "json.gz", "parquet", "csv", "tsv")
# Rows per shard of a built folder: enough shards for any number of processes, and a new order in every pass.
ROWS_PER_SHARD = 1000


@dataclass(frozen=True)
class Shard(RecordFile):
    """
    A part of one input that is read separately, in order.

    Args:
        index (`int`): Index of the part of a saved or Hub dataset.
        of (`int`): Number of parts; a file is one part, or several byte ranges.
        remote (`bool`): Whether it is read from the Hub row by row.
        lines (`tuple[int, int]`, *optional*): Byte range of a JSON Lines file in which its lines begin.
    """

    index: int = 0
    of: int = 1
    remote: bool = False
    lines: tuple[int, int] | None = None

    def records(self) -> Iterator[tuple[Place, Any]]:
        """Yields the records of the shard, each with its place."""
        if self.lines is not None:
            yield from ((place, an_object(record, place)) for place, record in read_range(self.path, *self.lines))
            return
        if Path(self.path).is_file():
            yield from read_records(RecordFile(self.path))
            return
        if self.remote:
            dataset = open_remote(self.path, self.split).shard(self.of, self.index)
            name, first = f"{self.path}, shard {self.index + 1} of {self.of}", 1
        else:
            dataset = open_dataset(self.path, self.split)
            first = 1 + (len(dataset) * self.index) // self.of
            dataset = dataset.select(range(first - 1, (len(dataset) * (self.index + 1)) // self.of))
            name = self.path
        strip = null_stripper(dataset.features)
        for number, row in enumerate(dataset, first):
            yield Place(name, "row", number), strip(row) if strip else row


def shards_of(spec: DatasetSpec, source: str | None) -> tuple[list[Shard], bool]:
    """
    Returns the shards of a spec, and whether `build-data` wrote their rows.

    Args:
        spec (`DatasetSpec`): Spec with its `split`.
        source (`str`, *optional*): Raw format, which may decide which files of a folder are read.

    Raises:
        `InputError`: if there are none.
    """
    path = Path(spec.path)
    if path.is_file():
        return [Shard(spec.path)], False
    if glob.has_magic(spec.path):
        files = sorted(name for name in glob.glob(spec.path, recursive=True) if Path(name).is_file())
        if not files:
            raise InputError(f"{spec.path}: no file matches. Check the pattern.")
        return [Shard(name) for name in files], False
    if path.is_dir() and not is_saved_dataset(spec.path):
        return [Shard(name) for name in _files_of_folder(spec, source)], False
    if path.exists():
        dataset = open_dataset(spec.path, spec.split)
        of = -(-len(dataset) // ROWS_PER_SHARD) or 1
        return [Shard(spec.path, spec.split, k, of) for k in range(of)], find_shape(dataset.column_names) is not None
    if not looks_like_hub_id(spec.path):
        raise missing_file(spec.path)
    dataset = open_remote(spec.path, spec.split)
    of = dataset.num_shards
    built = find_shape(dataset.column_names or []) is not None
    return [Shard(spec.path, spec.split, k, of, remote=True) for k in range(of)], built


def in_ranges(shards: list[Shard], source: str | None, options: SourceOptions) -> list[Shard]:
    """
    Splits large JSON Lines files into parts, so that processes share them and a resumed run starts near its position.
    Files whose rows are joined (judged by their first row) are not split.

    Args:
        shards (`list[Shard]`): From [`shards_of`].
        source (`str`, *optional*): Raw format; `None` if rows are never joined.
        options (`SourceOptions`): Options of the source.
    """
    found = []
    for shard in shards:
        ranges = line_ranges(shard.path) if Path(shard.path).is_file() else []
        if len(ranges) < 2 or (source is not None and _are_joined(shard, source, options)):
            found.append(shard)
        else:
            found += [Shard(shard.path, lines=lines) for lines in ranges]
    return found


def _are_joined(shard: Shard, source: str, options: SourceOptions) -> bool:
    kind, (_, first) = find_source(source), next(shard.records())
    if kind.join is None:
        return False
    return kind.joins is None or isinstance(first, InputError) or kind.joins(first, options)


def _files_of_folder(spec: DatasetSpec, source: str | None) -> list[str]:
    if source is not None and find_source(source).find_files is not None:
        found = find_source(source).find_files(spec.path, SourceOptions(domain=spec.domain))
        files = [file for split, file in found if split in ("", spec.split)]
    else:
        files = sorted(str(file) for ending in FILE_ENDINGS for file in Path(spec.path).glob(f"*.{ending}"))
    if not files:
        raise InputError(
            f"{spec.path}: this folder has no saved dataset and no {name_list(FILE_ENDINGS)} file for the split "
            f"'{spec.split}'. Give a folder of shards, a pattern like DIR/*.jsonl, or a file."
        )
    return files


def open_remote(name: str, split: str | None) -> IterableDataset:
    """
    Opens a dataset of the Hub without downloading it.

    Raises:
        `InputError`: if the Hub returns no dataset of that name and split.
    """
    import datasets

    try:
        return datasets.load_dataset(name, split=split or "train", streaming=True)
    except Exception as error:  # offline, unknown, gated, several configurations: each has its own class
        raise InputError(
            f"'{name}' is not a local file or folder, and the Hub returned no split '{split or 'train'}' of that "
            f"name to stream "
            f"({class_and_line(error)}). Check the spelling, or the connection and the login (`hf auth login`)."
        ) from error
