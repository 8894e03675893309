"""Reads instructions from a user's file and selects those to ask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.inputs import split_suffix
from ..data.records import Place, RecordFile, looks_like_hub_id, missing_file, open_binary, open_dataset, read_records
from ..data.schema import describe, known_keys, text_value
from ..errors import InputError, did_you_mean, name_list


COLUMNS = ("instruction", "input", "output")


@dataclass(frozen=True)
class Instruction:
    """
    One instruction.

    Args:
        query (`str`): The query: the instruction, followed by its input if it has one.
        answer (`str`, *optional*): The answer that came with it.
    """

    query: str
    answer: str | None = None


@dataclass
class Selection:
    """
    The selected instructions, and counts of the others.

    Args:
        instructions (`list[Instruction]`): In the order of the file.
        counts (`dict[str, int]`): Rows read, left out for each reason, and selected.
    """

    instructions: list[Instruction]
    counts: dict[str, int] = field(default_factory=dict)


def select_instructions(
    path: str,
    *,
    columns: dict[str, str] | None = None,
    num: int | None = None,
    seed: int = 0,
    no_input: bool = False,
    skip_invalid: bool = False,
) -> Selection:
    """
    Reads instructions and selects some of them.

    Args:
        path (`str`): Text lines (`.txt`), Alpaca rows in JSON, JSON Lines or Parquet, a saved dataset or a Hub id; the
            last two with `:SPLIT`.
        columns (`dict[str, str]`, *optional*): `instruction`, `input`, `output` -> their names in the file; dots reach
            into objects.
        num (`int`, *optional*): How many; all by default. A larger number selects the same ones and more.
        seed (`int`): Seed of the selection.
        no_input (`bool`): Leave out instructions that have an input, as the DSP data do.
        skip_invalid (`bool`): Leave out rows that cannot be used, and count them.

    Raises:
        `InputError`: if there is nothing to read or to ask, naming file and row.
    """
    columns = columns or {}
    for ours in columns:
        if ours not in COLUMNS:
            raise InputError(f"--columns: '{ours}' is not one of {name_list(COLUMNS)}.{did_you_mean(ours, COLUMNS)}")
    if num is not None and num < 1:
        raise InputError(f"--num is {num}; it must be at least 1.")
    counts = {"read": 0, "invalid": 0, "with input": 0, "empty": 0, "duplicates": 0, "not chosen": 0}
    found: dict[str, Instruction] = {}
    for place, record in _records(path):
        counts["read"] += 1
        try:
            if isinstance(record, InputError):
                raise record
            instruction, has_input = _read(record, place, columns)
        except InputError:
            if not skip_invalid:
                raise
            counts["invalid"] += 1
            continue
        if no_input and has_input:
            counts["with input"] += 1
        elif not instruction.query:
            counts["empty"] += 1
        elif instruction.query in found:
            counts["duplicates"] += 1
        else:
            found[instruction.query] = instruction
    if not found:
        raise InputError(f"{path}: no instructions are left to ask; of {counts['read']} rows {_reasons(counts)}.")
    chosen = set(sorted(found, key=lambda query: _lot(query, seed))[:num])
    counts["not chosen"] = len(found) - len(chosen)
    return Selection([entry for query, entry in found.items() if query in chosen], counts)


def _records(path: str) -> Iterator[tuple[Place, Any]]:
    if path.endswith((".txt", ".txt.gz")):
        yield from _lines(path)
        return
    if Path(path).is_file():
        yield from read_records(RecordFile(path))
        return
    name, split = split_suffix(path)
    if not Path(name).exists() and not looks_like_hub_id(name):
        raise missing_file(name)
    dataset = open_dataset(name, split)
    if isinstance(dataset, dict):
        first = next(iter(dataset))
        raise InputError(f"{name}: choose one of its splits {name_list(dataset)}, for example --input {name}:{first}.")
    yield from read_records(RecordFile(name, split))


def _lines(path: str) -> Iterator[tuple[Place, dict[str, str]]]:
    if not Path(path).is_file():
        raise missing_file(path)
    with open_binary(path) as file:
        for number, line in enumerate(file, 1):
            place = Place(path, "line", number)
            try:
                yield place, {"instruction": line.decode("utf-8-sig" if number == 1 else "utf-8")}
            except UnicodeDecodeError as error:
                raise place.error("not UTF-8.", "Save the file in UTF-8.") from error


def _read(record: dict[str, Any], place: Place, columns: dict[str, str]) -> tuple[Instruction, bool]:
    values = {ours: _value(record, ours, place, columns) for ours in COLUMNS}
    if values["instruction"] is None:
        raise place.error(
            f"there is no `instruction`; the keys are {known_keys(record)}.",
            "Give the name of its column, for example --columns instruction=question.",
        )
    instruction, given, answer = (
        None if values[ours] is None else text_value(values[ours], ours, place) for ours in COLUMNS
    )
    has_input = bool(given and given.strip())
    # As in the few published DSP queries with an input text: it follows the instruction, on its own line.
    query = f"{instruction.strip()}\n{given.strip()}" if has_input else instruction.strip()
    return Instruction(query.strip(), answer.strip() if answer and answer.strip() else None), has_input


def _value(record: dict[str, Any], ours: str, place: Place, columns: dict[str, str]) -> Any:
    name = columns.get(ours)
    if name is None or name in record:
        return record.get(name or ours)
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise place.error(
                f"there is no column '{name}' (for `{ours}`), only {known_keys(record)}.",
                did_you_mean(name, record) or "Use one of these.",
            )
        value = value[part]
    if not isinstance(value, str | None):
        raise place.error(f"`{name}` (for `{ours}`) must be a string, got {describe(value)}.")
    return value


def _lot(query: str, seed: int) -> bytes:
    """A sort key that depends only on seed and query, so that a growing file keeps its selection."""
    return hashlib.sha256(f"{seed}\n{query}".encode()).digest()


def _reasons(counts: dict[str, int]) -> str:
    return (
        ", ".join(f"{number} {reason}" for reason, number in counts.items() if number and reason != "read") or "none"
    )
