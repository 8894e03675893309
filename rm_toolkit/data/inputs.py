"""Parses `--input`: files, folders and Hub ids, with or without a split name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, did_you_mean, name_list
from .records import RecordFile, is_saved_dataset, looks_like_hub_id, missing_file, open_dataset
from .sources import Source, SourceOptions


SPLITS = ("train", "test")


def resolve_inputs(source: Source, inputs: list[str], options: SourceOptions) -> dict[str, list[RecordFile]]:
    """
    Groups the inputs by split: `train` and `test` if they are named, else all under the empty name.

    Raises:
        `InputError`: for another split name, named and unnamed inputs together, or a path that does not exist.
    """
    parts: dict[str, list[RecordFile]] = {}
    for text in inputs:
        name, _, path = text.partition("=") if "=" in text and not Path(text).exists() else ("", "", text)
        if name not in ("", *SPLITS):
            raise InputError(
                f"--input {text}: there is no split '{name}', only 'train' and 'test' (test=FILE).{did_you_mean(name, SPLITS)}"
            )
        for split, file in _expand(path, name, source, options):
            parts.setdefault(split, []).append(file)
    if not parts:
        raise InputError("no input was given; pass --input FILE, or --input train=FILE test=FILE.")
    if "" in parts and len(parts) > 1:
        raise InputError("inputs with and without a split's name are mixed; name all (train=FILE test=FILE) or none.")
    return {name: parts[name] for name in ("", *SPLITS) if name in parts}


def _expand(path: str, split: str, source: Source, options: SourceOptions) -> Iterator[tuple[str, RecordFile]]:
    """Yields `(split, file)` for one input: a folder or a Hub dataset may have its own splits."""
    if not path.strip():
        raise missing_file(path)
    if Path(path).is_file():
        yield split, RecordFile(path)
        return
    if Path(path).is_dir() and source.find_files is not None and not is_saved_dataset(path):
        found = source.find_files(path, options)
        for own, file in found:
            if split in ("", own):
                yield own, RecordFile(file)
        return
    path, chosen = split_suffix(path)
    if not Path(path).exists() and not looks_like_hub_id(path):
        raise missing_file(path)
    dataset = open_dataset(path, chosen)
    if not isinstance(dataset, dict):
        yield split, RecordFile(path, chosen)
        return
    wanted = [split] if split else [name for name in SPLITS if name in dataset]
    if not wanted or wanted[0] not in dataset:
        raise InputError(
            f"{path}: choose one of its splits {name_list(dataset)}, for example --input train={path}:{next(iter(dataset))}."
        )
    for own in wanted:
        yield own, RecordFile(path, own)


def split_suffix(path: str) -> tuple[str, str | None]:
    """Splits `PATH:SPLIT`; an existing path with a colon is kept whole."""
    head, colon, tail = path.rpartition(":")
    if not colon or Path(path).exists() or not tail.replace("_", "").isalnum():
        return path, None
    return head, tail
