"""Splits by prompt: every row of a prompt goes to the same side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


# Number of rows whose ids are Python strings at a time.
CHUNK = 100_000


def seeded_order(dataset: Dataset, seed: int) -> np.ndarray:
    """
    Returns a sort key for every row: a random order of the prompts that depends only on the seed and the prompt.

    Args:
        dataset (`datasets.Dataset`): Has the column `prompt_id`.
        seed (`int`): The same seed gives the same order, independent of the rest of the data.

    Returns:
        `np.ndarray` of shape `(num_rows,)`: unsigned 64-bit numbers, equal for rows of one prompt.
    """
    import numpy as np
    from pandas.util import hash_array

    key = _hash_key(seed)
    column = dataset.with_format("arrow")["prompt_id"]
    starts = range(0, len(dataset), CHUNK)
    chunks = (column.slice(start, CHUNK).to_numpy(zero_copy_only=False) for start in starts)
    keys = [hash_array(chunk.astype(object), hash_key=key, categorize=False) for chunk in chunks]
    return np.concatenate(keys) if keys else np.zeros(0, dtype=np.uint64)


def split_by_prompt(dataset: Dataset, test_size: float, seed: int) -> tuple[Dataset, Dataset]:
    """
    Splits rows into train and test so that no prompt is in both.

    Args:
        dataset (`datasets.Dataset`): Has the column `prompt_id`.
        test_size (`float`): Below 1 the fraction of the prompts that go to test, else their number; at least one.
        seed (`int`): Seed of the choice.

    Returns:
        `(train, test)`

    Raises:
        `InputError`: if nothing would be left to train on.
    """
    import numpy as np

    keys = seeded_order(dataset, seed)
    prompts = np.unique(keys)
    number = _count(test_size, len(prompts))
    if number >= len(prompts):
        raise InputError(
            f"`test_size` is {test_size:g}, but the input has {len(prompts)} prompts; nothing would be left to train on. "
            "Use a smaller one, or 0 for no test split."
        )
    in_test = keys < prompts[number]
    return dataset.select(np.flatnonzero(~in_test)), dataset.select(np.flatnonzero(in_test))


def take_fraction(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Returns the rows of a random fraction of the prompts (at least one), in their order; all of them for 1."""
    import numpy as np

    if fraction == 1:
        return dataset
    keys = seeded_order(dataset, seed)
    prompts = np.unique(keys)
    return dataset.select(np.flatnonzero(keys <= prompts[_count(fraction, len(prompts)) - 1]))


def in_fraction(prompt_id: str, fraction: float, seed: int) -> bool:
    """
    Whether a prompt is in a random fraction of all prompts, decided for each prompt alone (for streams); exact on
    average.
    """
    import numpy as np
    from pandas.util import hash_array

    key = hash_array(np.array([prompt_id], dtype=object), hash_key=_hash_key(seed), categorize=False)[0]
    return int(key) < fraction * 2**64


def _hash_key(seed: int) -> str:
    return f"{seed % 10**16:016d}"


def _count(size: float, prompts: int) -> int:
    return max(1, round(size * prompts) if size < 1 else int(size))
