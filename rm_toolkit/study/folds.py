"""Splits training data into folds by prompt, so that a model that has not seen a fold can judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batches.preference_rows import PreferenceRow
from ..data.templates import prompt_digest
from ..evaluation.parts import deal_prompts
from ..evaluation.preferences import rows_of


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Folds:
    """
    The fold of each row of each dataset.

    Args:
        number (`int`): Number of folds.
        rows (`dict[str, np.ndarray]`): For each dataset, the fold of each row, from 0.
    """

    number: int
    rows: dict[str, np.ndarray]

    def part(self, datasets: Mapping[str, Dataset], fold: int, *, held_out: bool) -> dict[str, Dataset]:
        """
        Returns the rows of one fold, or all others; without datasets that have none.

        Args:
            datasets (`dict[str, Dataset]`): Datasets of the folds.
            fold (`int`): From 0.
            held_out (`bool`): Whether to return the rows of this fold, or those of all others.
        """
        chosen = {name: np.flatnonzero((self.rows[name] == fold) == held_out) for name in datasets}
        return {name: datasets[name].select(numbers) for name, numbers in chosen.items() if len(numbers)}


def make_folds(datasets: Mapping[str, Dataset], number: int, seed: int) -> Folds:
    """
    Assigns the prompts of all datasets, in a random order, each to the fold with the fewest rows: no prompt is in two
    folds, and the folds have about the same size.

    Args:
        datasets (`dict[str, Dataset]`): Pairs or ranked rows, by name.
        number (`int`): Number of folds, at least 2.
        seed (`int`): Seed of the order, which depends only on it and on the prompts.

    Raises:
        `InputError`: if there are fewer prompts than folds.
    """
    keys = {name: [_key(row, values) for row, values in rows_of(data, name)] for name, data in datasets.items()}
    dealt = deal_prompts([key for own in keys.values() for key in own], number, seed)
    ends = np.cumsum([len(own) for own in keys.values()])
    return Folds(number, dict(zip(keys, np.split(dealt, ends[:-1]))))


def _key(row: PreferenceRow, values: Mapping[str, Any]) -> str:
    """Key shared by the rows of one prompt; for rows without a prompt, by equal rows."""
    given = values.get("prompt_id")
    return str(given or prompt_digest(row.prompt, row.completions, row.tools, row.chat_template_kwargs))
