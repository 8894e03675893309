"""Checks a model from an unknown source before a library reads it: its files, their keys, its tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import InputError, first_line
from ..output.json_files import REMEDY, check_regular, read_mapping, read_text
from .files import CONFIG_NAME, SAFE_INDEX, SAFE_WEIGHTS, SETTINGS_NAME, VOCABULARIES
from .folder_rules import check_content
from .hub_files import find_file


# `config.json` gives the type of the tokenizer if nothing else does.
TOKENIZER_FILES = (
    CONFIG_NAME,
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
MOST_SETTINGS = 1 << 26  # bytes of a settings file: a config of 64 MB is not a config
MOST_TEMPLATE = 1 << 22
_FLOATING = ("F", "BF", "C")  # F16, F32, F8_E4M3, BF16, …; the others are integers and booleans


def place_of(name: str, file: str, revision: str | None = None, *, subfolder: str = "") -> str | None:
    """
    Path of a file of a model, if anything exists under its name; a file on the Hub is downloaded into the cache.

    Args:
        name (`str`): Folder or Hub id.
        file (`str`): Its name.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        subfolder (`str`): Folder that it is in.
    """
    if os.path.isdir(name):  # also if it is not a file: a broken link, a folder
        path = Path(name, subfolder, file)
        return str(path) if os.path.lexists(path) else None
    return find_file(name, file, revision, subfolder=subfolder)


def read_checked(name: str, file: str, revision: str | None = None) -> dict[str, Any] | None:
    """
    Reads a JSON file of a model and compares it with its rules, see `folder_rules.py`.

    Args:
        name (`str`): Folder or Hub id.
        file (`str`): Its name.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Returns:
        `dict`, *optional*: Its content; `None` if there is no such file.

    Raises:
        `InputError`: in one line that names the file, the key, and what to do.
    """
    path = place_of(name, file, revision)
    if path is None:
        return None
    large = file in ("tokenizer.json", SAFE_INDEX)
    values = read_mapping(path, **({} if large else {"most_bytes": MOST_SETTINGS}))
    check_content(file, values, path)
    return values


def check_tokenizer_files(name: str, revision: str | None = None) -> None:
    """
    Checks the files that a tokenizer is read from.

    Raises:
        `InputError`: as [`read_checked`]; if a chat template is not text, or a file that was saved with the
            others is missing.
    """
    found = {file for file in TOKENIZER_FILES if read_checked(name, file, revision) is not None}
    if "tokenizer.json" in found and "tokenizer_config.json" not in found and place_of(name, SETTINGS_NAME, revision):
        # Without it the tokenizer would load, but read texts differently from training.
        raise InputError(f"'{name}' has a `tokenizer.json` but no `tokenizer_config.json`. {REMEDY}")
    settings = read_checked(name, "tokenizer_config.json", revision) or {}
    needs_vocabulary = settings and "tokenizer.json" not in found and not settings.get("auto_map")
    if needs_vocabulary and not any(place_of(name, file, revision) for file in VOCABULARIES):
        # transformers would make a tokenizer with an empty vocabulary, to which all texts are the same.
        raise InputError(
            f"'{name}' has a `tokenizer_config.json` but no `tokenizer.json` and no vocabulary file. {REMEDY}"
        )
    path = place_of(name, "chat_template.jinja", revision)
    if path is not None:
        read_text(path, MOST_TEMPLATE)


def open_tensors(path: str | os.PathLike) -> dict[str, tuple[str, list[int]]]:
    """
    Reads the header of a safetensors file.

    Args:
        path (`str` or `os.PathLike`): The file.

    Returns:
        `dict[str, tuple]`: Name of a tensor -> its type, as the file calls it, and its shape.

    Raises:
        `InputError`: if it is not a regular file, or safetensors cannot read it.
    """
    check_regular(path, None)
    try:
        with safe_open(path, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except (OSError, SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}). {REMEDY}") from error


def check_floating(headers: dict[str, tuple[str, list[int]]], path: str | os.PathLike) -> None:
    """
    Refuses integer weights, which would be misread as numbers.

    Args:
        headers (`dict[str, tuple]`): From [`open_tensors`].
        path (`str` or `os.PathLike`): The file or model, for the message.

    Raises:
        `InputError`: naming the tensor.
    """
    for tensor, (kind, _) in headers.items():
        if tensor.endswith((".weight", ".bias")) and not kind.startswith(_FLOATING):
            raise InputError(
                f"{path}: the weight '{tensor}' of its safetensors has the type {kind}, which has no floating-point "
                f"numbers. {REMEDY}"
            )


def checked_index(name: str, revision: str | None = None) -> dict[str, str] | None:
    """
    Reads the index of a model in several files: which tensor is in which file.

    Returns:
        `dict[str, str]`, *optional*: Name of a tensor -> name of a file beside the index; `None` if there is no index.

    Raises:
        `InputError`: if the index cannot be read, or names a file that is not beside it.
    """
    found = read_checked(name, SAFE_INDEX, revision)
    if found is None:
        return None
    names = found["weight_map"]
    outside = next((file for file in names.values() if Path(file).name != file), None)
    if outside is not None:
        raise InputError(
            f"{place_of(name, SAFE_INDEX, revision)}: `weight_map` lists '{outside}', which is missing. {REMEDY}"
        )
    return names


def weight_headers(name: str, revision: str | None = None) -> dict[str, tuple[str, list[int]]]:
    """
    Reads the headers of all safetensors files of a model.

    Returns:
        `dict[str, tuple]`: Name of a tensor -> its type and its shape; empty if the model has no such files.

    Raises:
        `InputError`: as [`open_tensors`] and [`checked_index`]; if the index lists a missing file.
    """
    path = place_of(name, SAFE_WEIGHTS, revision)
    if path is not None:
        return open_tensors(path)
    index = checked_index(name, revision) or {}
    found: dict[str, tuple[str, list[int]]] = {}
    for file in sorted(set(index.values())):
        path = place_of(name, file, revision)
        if path is None:
            listed = place_of(name, SAFE_INDEX, revision)
            raise InputError(f"{listed}: `weight_map` lists '{file}', which is missing. {REMEDY}")
        found |= open_tensors(path)
    return found


def file_of_tensor(name: str, key: str, revision: str | None = None) -> str | None:
    """
    Finds the safetensors file of a model that has a weight.

    Args:
        name (`str`): Folder or Hub id.
        key (`str`): Name of the weight in the file.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
    """
    path = place_of(name, SAFE_WEIGHTS, revision)
    if path is not None:
        return path if key in open_tensors(path) else None
    shard = (checked_index(name, revision) or {}).get(key)
    return place_of(name, shard, revision) if shard is not None else None
