"""A reviewed list of pairs to leave out of a built dataset: pairs match exactly, and every line is accounted for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .messages import null_stripper
from .pair_identity import row_pair_id
from .records import RecordFile, missing_file


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


MOST_NAMED = 20  # lines in a message
REMEDY = "Fix or remove the line."


@dataclass
class DropList:
    """
    The pairs of a list, by [`~rm_toolkit.data.pair_identity.pair_id`], and what happened to them.

    Args:
        path (`str`): The file.
        lines (`dict[str, list[int]]`): For each pair the numbers of the lines (rows of a table) that name it.
        dropped (`dict[str, int]`): Number of rows left out of each split.
        matched (`set[str]`): Pairs that were found.
    """

    path: str
    lines: dict[str, list[int]]
    dropped: dict[str, int] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)

    @property
    def num_lines(self) -> int:
        """Lines of the list."""
        return sum(map(len, self.lines.values()))

    @property
    def unmatched(self) -> list[int]:
        """Numbers of the lines whose pair was not found, in order."""
        return sorted(n for key, numbers in self.lines.items() if key not in self.matched for n in numbers)

    def apply(self, datasets: DatasetDict) -> DatasetDict:
        """
        Leaves the listed pairs out of all splits.

        Args:
            datasets (`datasets.DatasetDict`): Pairs, cleaned.

        Raises:
            `InputError`: if no line of the list matches a pair, or a split has no pair left.
        """
        import numpy as np
        from datasets import DatasetDict

        kept = {}
        for name, dataset in datasets.items():
            keys = list(pair_ids(dataset))
            stays = np.array([key not in self.lines for key in keys], dtype=bool)
            self.matched.update(key for key in keys if key in self.lines)
            self.dropped[name] = int((~stays).sum())
            kept[name] = dataset.select(np.flatnonzero(stays)) if self.dropped[name] else dataset
        if not self.matched:
            raise InputError(
                f"{self.path}: none of its {self.num_lines:,} lines is a pair of this build. The texts must be exactly "
                "those of the built pairs: build with the source, the template and the format that the list was made with."
            )
        empty = next((name for name, dataset in kept.items() if not len(dataset)), None)
        if empty is not None:
            raise InputError(f"{self.path} leaves no pair in the split '{empty}'. Remove lines from the list.")
        return DatasetDict(kept)

    def as_dict(self) -> dict[str, Any]:
        """Returns what the built folder records about the list."""
        return {
            "file": Path(self.path).name,
            "lines": self.num_lines,
            "dropped": self.dropped,
            "unmatched_lines": self.unmatched,
        }

    def describe(self) -> list[str]:
        """Returns lines of text: what was left out, and which lines of the list were not found."""
        parts = ", ".join(f"{name} {number:,}" for name, number in self.dropped.items())
        said = [f"{self.path}: {self.num_lines:,} lines; pairs left out: {parts}"]
        missed = self.unmatched
        if missed:
            shown = ", ".join(map(str, missed[:MOST_NAMED])) + (", …" if len(missed) > MOST_NAMED else "")
            said.append(
                f"warning: {self.path}: {len(missed):,} lines match no pair of this build (lines {shown}); "
                "their texts are not exactly those of a built pair."
            )
        return said


def read_drop_list(path: str) -> DropList:
    """
    Reads a list of pairs, such as `rm-toolkit doubt` writes and a person has reviewed.

    Args:
        path (`str`): JSON Lines (also .gz), JSON, CSV, Parquet: each row has `prompt`, `chosen` and `rejected` (and
            for chats `tools` and `chat_template_kwargs`, if any) or a `pair_id`; other columns are not read.

    Raises:
        `InputError`: naming file and line of a row that names no pair, or whose texts do not match its `pair_id`.
    """
    if not Path(path).is_file():
        raise missing_file(path)
    lines: dict[str, list[int]] = {}
    for place, record in RecordFile(path).records():
        if isinstance(record, InputError):
            raise record
        lines.setdefault(_named_pair(record, place), []).append(place.number)
    return DropList(path, lines)


def _named_pair(record: dict[str, Any], place: Any) -> str:
    given = record.get("pair_id")
    if given is not None and not isinstance(given, str):
        raise place.error("`pair_id` is not a string.", REMEDY)
    if "chosen" not in record and "rejected" not in record and given:
        return given
    missing = [name for name in ("chosen", "rejected") if not isinstance(record.get(name), str | list)]
    if missing:
        problem = f"`{missing[0]}` is missing; a line has `prompt`, `chosen` and `rejected`, or only `pair_id`."
        raise place.error(problem, REMEDY)
    try:
        found = row_pair_id(record)
    except ValueError as error:
        raise place.error(f"{error}.", REMEDY) from error
    if given is not None and given != found:
        raise place.error(
            f"the texts do not match its `pair_id` '{given}': one of them was changed.",
            "Restore the line, or remove `pair_id` to use the texts.",
        )
    return found


def pair_ids(dataset: Dataset) -> Iterable[str]:
    """Yields the [`~rm_toolkit.data.pair_identity.pair_id`] of each row of a dataset of pairs."""
    names = [
        name
        for name in ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")
        if name in dataset.column_names
    ]
    strip = null_stripper(dataset.features) or dict
    return (row_pair_id(strip(row)) for row in dataset.select_columns(names))
