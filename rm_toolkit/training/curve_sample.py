"""The part of each test set that a run evaluates while it trains, where `eval_curve_fraction` is below 1."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InputError


STRATA = ("domain", "source")  # the share is taken within each value of these columns, where a set has them


def sampled_name(name: str) -> str:
    """Name of the sampled part of a test set: its metrics are `eval_<name>_sample_accuracy` and the like."""
    return f"{name}_sample" if name else "sample"


def sampled_of(names: Iterable[str]) -> dict[str, str]:
    """Maps the name of each sampled part of test sets with these names to the name of its set."""
    return {sampled_name("" if name == "eval" else name): name for name in names}


def sample_sets(dataset: Any, fraction: float, seed: int) -> dict[str, Dataset]:
    """
    Takes a fixed share of each test set.

    Args:
        dataset (`Dataset` or `dict[str, Dataset]`, *optional*): Test sets.
        fraction (`float`): Share of the prompts of each set and each of its domains and sources, above 0. With 1,
            nothing is sampled: the whole sets are always evaluated.
        seed (`int`): Of the draw; the same seed and rows give the same share in every launch.

    Returns:
        `dict[str, Dataset]`: By the names used in the metrics.

    Raises:
        `InputError`: if a set does not consist of rows, or has the name of the sampled part of another set.
    """
    if dataset is None or fraction == 1:
        return {}
    sets = dataset if isinstance(dataset, Mapping) else {"": dataset}
    found = {}
    for name, rows in sets.items():
        if not isinstance(rows, Dataset):
            raise InputError(
                f"`eval_curve_fraction` is {fraction:g}, but the test set '{name or 'eval'}' is a {type(rows).__name__}, not "
                "a `datasets.Dataset` of rows to sample from. Give its rows, or leave the setting out."
            )
        found[sampled_name(name)] = sample_prompts(rows, fraction, [seed, zlib.crc32(name.encode())])
    both = next((name for name in found if name in sets), None)
    if both is not None:
        raise InputError(
            f"the test set '{both}' has the name that `eval_curve_fraction` {fraction:g} gives the sampled part of another "
            "set. Rename it."
        )
    return found


def sample_prompts(dataset: Dataset, fraction: float, seed: int | list[int]) -> Dataset:
    """
    Samples prompts, with all their rows, in the order of the set: at least one prompt of each stratum.

    Args:
        dataset (`Dataset`): Preference rows.
        fraction (`float`): Share of the prompts of each stratum, rounded up.
        seed (`int` or `list[int]`): Of the draw.
    """
    strata = list(zip(*(dataset[name] for name in STRATA if name in dataset.column_names))) or [()] * len(dataset)
    prompts: dict[tuple, dict[Any, list[int]]] = {}
    for number, (stratum, prompt) in enumerate(zip(strata, _prompts(dataset))):
        prompts.setdefault(stratum, {}).setdefault(prompt, []).append(number)
    rng = np.random.default_rng(seed)
    taken: list[int] = []
    for own in prompts.values():
        groups = list(own.values())
        count = math.ceil(round(fraction * len(groups), 9))
        taken += [row for k in rng.permutation(len(groups))[:count] for row in groups[k]]
    return dataset.select(sorted(taken))


def _prompts(dataset: Dataset) -> Iterable[Any]:
    """Key shared by the rows of one prompt; a row without a prompt has its own key."""
    for name in ("prompt_id", "prompt"):
        if name in dataset.column_names:
            return (
                number if not value else value if isinstance(value, str) else repr(value)
                for number, value in enumerate(dataset[name])
            )
    return range(len(dataset))


def sets_of_a_call(whole: dict[str, Any], samples: dict[str, Any], while_training: bool) -> dict[str, Any]:
    """
    Returns the sets that one evaluation of a run's own test sets scores.

    Args:
        whole (`dict`): The test sets.
        samples (`dict`): From [`sample_sets`]; empty where the curve is of the whole sets.
        while_training (`bool`): Whether it is an evaluation between the first and the last step.
    """
    return samples if samples and while_training else {**whole, **samples}
