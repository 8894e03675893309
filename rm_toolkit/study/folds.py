"""Training data in parts by prompt, so that a model which has not seen a part can judge it."""

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
    Which rows of each data set belong to which fold.

    Args:
        number (`int`): Number of folds.
        rows (`dict[str, np.ndarray]`): For each data set the fold of each row, from 0.
    """

    number: int
    rows: dict[str, np.ndarray]

    def part(self, datasets: Mapping[str, Dataset], fold: int, *, held_out: bool) -> dict[str, Dataset]:
        """
        Returns the rows of one fold, or all others; without the data sets that have none.

        Args:
            datasets (`dict[str, Dataset]`): Those that the folds are of.
            fold (`int`): From 0.
            held_out (`bool`): Whether the rows of this fold, or those of all others.
        """
        chosen = {name: np.flatnonzero((self.rows[name] == fold) == held_out) for name in datasets}
        return {name: datasets[name].select(numbers) for name, numbers in chosen.items() if len(numbers)}


def make_folds(datasets: Mapping[str, Dataset], number: int, seed: int) -> Folds:
    """
    Deals the prompts of all data sets together, in a random order, each to the fold with the fewest rows: no prompt is in
    two folds, and the folds are about equally large.

    Args:
        datasets (`dict[str, Dataset]`): Pairs or ranked rows, by name.
        number (`int`): Number of folds, at least 2.
        seed (`int`): Seed of the order, which depends on it and on the prompts alone.

    Raises:
        `InputError`: if there are fewer prompts than folds.
    """
    keys = {name: [_key(row, values) for row, values in rows_of(data, name)] for name, data in datasets.items()}
    dealt = deal_prompts([key for own in keys.values() for key in own], number, seed)
    ends = np.cumsum([len(own) for own in keys.values()])
    return Folds(number, dict(zip(keys, np.split(dealt, ends[:-1]))))


def _key(row: PreferenceRow, values: Mapping[str, Any]) -> str:
    """What rows of one prompt share; of rows without one, what equal rows share."""
    given = values.get("prompt_id")
    return str(given or prompt_digest(row.prompt, row.completions, row.tools, row.chat_template_kwargs))
