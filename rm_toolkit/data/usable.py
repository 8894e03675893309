"""Finds rows of a whole dataset that state no preference, before they are used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute

from ..errors import InputError
from .pairing import label_scores, ranked_scores
from .records import Place


if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset


BATCH_SIZE = 1000


def usable_rows(dataset: Dataset, place: Callable[[int], Place], *, skip_invalid: bool = False) -> tuple[Dataset, int]:
    """
    Returns the rows whose scores the rule of [`~rm_toolkit.data.pairing`] accepts, and the number of other rows.

    Args:
        dataset (`datasets.Dataset`): Pairs or ranked rows.
        place (`Callable`): Number of a row, from 1 -> its place, for the error.
        skip_invalid (`bool`): Leave the others out instead of stopping at the first.

    Raises:
        `InputError`: for the first row that is refused, unless `skip_invalid` is on; if no row is left.
    """
    refused, first = [], None
    for number in _suspects(dataset):
        try:
            _check(dataset[number], place(number + 1))
        except InputError as error:
            if not skip_invalid:
                raise
            first = first or error
            refused.append(number)
    if first is None:
        return dataset, 0
    if len(refused) == len(dataset):
        raise InputError(f"none of the {len(dataset)} rows can be used. The first: {first}")
    return dataset.select(np.setdiff1d(np.arange(len(dataset)), refused)), len(refused)


def _check(row: dict, place: Place) -> None:
    if "completions" in row:
        ranked_scores(row["completions"], row["scores"], place)
    else:
        label_scores(row.get("score_chosen"), row.get("score_rejected"), place)


def _suspects(dataset: Dataset) -> list[int]:
    """Candidate rows to check: contains every row that would be refused; found with one vectorized comparison."""
    names = ("completions", "scores") if "completions" in dataset.column_names else ("score_chosen", "score_rejected")
    names = [name for name in names if name in dataset.column_names]
    if not names:
        return []
    found, begin = [], 0
    for table in dataset.select_columns(names).with_format("arrow").iter(BATCH_SIZE):
        fine = _fine_ranked(table) if "completions" in names else _fine_pairs(table)
        found += [begin + k for k, is_fine in enumerate(fine) if not is_fine]
        begin += len(table)
    return found


def _fine_pairs(table: pyarrow.Table) -> list[bool]:
    columns = [table[name].to_pylist() for name in table.column_names]
    if len(columns) == 1:
        return [False] * len(table)
    return [
        chosen is not None and rejected is not None and -math.inf < rejected <= chosen < math.inf
        for chosen, rejected in zip(*columns)
    ]


def _fine_ranked(table: pyarrow.Table) -> list[bool]:
    lengths = pyarrow.compute.list_value_length(table["completions"]).to_pylist()
    return [
        length is not None and scores is not None and len(scores) == length > 1 and all(map(_is_finite, scores))
        for length, scores in zip(lengths, table["scores"].to_pylist())
    ]


def _is_finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)
