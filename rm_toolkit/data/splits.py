"""Splits by prompt: every row of a prompt goes to the same side."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ..errors import InputError


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


def seeded_order(prompt_id: str, seed: int) -> str:
    """Returns the sort key of a prompt: a random order that depends on the seed and on nothing but this prompt."""
    return hashlib.sha256(f"{seed}:{prompt_id}".encode()).hexdigest()


def choose_prompts(dataset: Dataset, size: float, seed: int) -> set[str]:
    """
    Chooses prompts at random; the file order of the rows does not matter.

    Args:
        dataset (`datasets.Dataset`): Has the column `prompt_id`.
        size (`float`): Below 1 a fraction of the prompts, else their number.
        seed (`int`): Same seed and prompts, same choice.
    """
    prompts = sorted(dataset.unique("prompt_id"), key=lambda prompt: seeded_order(prompt, seed))
    number = round(size * len(prompts)) if size < 1 else int(size)
    return set(prompts[: max(1, number)])


def split_by_prompt(dataset: Dataset, test_size: float, seed: int) -> tuple[Dataset, Dataset]:
    """
    Splits rows into train and test such that no prompt is in both.

    Args:
        dataset (`datasets.Dataset`): Has the column `prompt_id`.
        test_size (`float`): Below 1 the fraction of the prompts that go to test, else their number.
        seed (`int`): Seed of the choice.

    Returns:
        `(train, test)`

    Raises:
        `InputError`: if one side would be empty.
    """
    chosen = choose_prompts(dataset, test_size, seed)
    total = len(dataset.unique("prompt_id"))
    if len(chosen) >= total:
        raise InputError(
            f"`test_size` is {test_size:g}, but the input has {total} prompts; nothing would be left to train on. "
            "Take a smaller one, or 0 for no test split."
        )
    in_test = _membership(dataset, chosen)
    return dataset.select((~in_test).nonzero()[0]), dataset.select(in_test.nonzero()[0])


def take_fraction(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Returns the rows of a random part of the prompts, in their order."""
    if fraction == 1:
        return dataset
    return dataset.select(_membership(dataset, choose_prompts(dataset, fraction, seed)).nonzero()[0])


def _membership(dataset: Dataset, prompts: set[str]) -> np.ndarray:
    import pyarrow
    import pyarrow.compute

    column = dataset.with_format("arrow")["prompt_id"]
    return pyarrow.compute.is_in(column, value_set=pyarrow.array(sorted(prompts))).to_numpy()
