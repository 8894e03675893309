"""The part of each test set that a run evaluates while it trains, where `eval_curve_fraction` is below 1."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InputError


STRATA = ("domain", "source")  # columns within whose values the share is taken, where a set has them


def sampled_name(name: str) -> str:
    """Name of the sampled part of a test set: its metrics are `eval_<name>_sample_accuracy` and the like."""
    return f"{name}_sample" if name else "sample"


def sampled_of(names: Iterable[str]) -> dict[str, str]:
    """Returns, for the name of each sampled part that test sets of these names have, the name of its set."""
    return {sampled_name("" if name == "eval" else name): name for name in names}


def sample_sets(dataset: Any, fraction: float, seed: int) -> dict[str, Dataset]:
    """
    Takes a fixed share of each test set.

    Args:
        dataset (`Dataset` or `dict[str, Dataset]`, *optional*): Test sets.
        fraction (`float`): Share of the prompts of each set and each of its domains and sources, above 0. 1 takes none:
            the whole sets are evaluated all the time.
        seed (`int`): Of the draw; the same seed and rows give the same share in every launch.

    Returns:
        `dict[str, Dataset]`: By the names that the metrics have.

    Raises:
        `InputError`: if a set is not held as rows, or is named as the sampled part of another.
    """
    if dataset is None or fraction == 1:
        return {}
    sets = dataset if isinstance(dataset, Mapping) else {"": dataset}
    found = {}
    for name, rows in sets.items():
        if not isinstance(rows, Dataset):
            raise InputError(
                f"`eval_curve_fraction` is {fraction:g}, but the test set '{name or 'eval'}' is a {type(rows).__name__}, not "
                "a `datasets.Dataset` of rows to take a share of. Give its rows, or leave the setting out."
            )
        found[sampled_name(name)] = sample_prompts(rows, fraction, [seed, zlib.crc32(name.encode())])
    both = next((name for name in found if name in sets), None)
    if both is not None:
        raise InputError(
            f"the test set '{both}' has the name that `eval_curve_fraction` {fraction:g} gives the sampled part of another "
            "one. Rename it."
        )
    return found


def sample_prompts(dataset: Dataset, fraction: float, seed: int | list[int]) -> Dataset:
    """
    Takes a share of the prompts with all of their rows, in the order of the set: of each stratum at least one prompt.

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
    """What the rows of one prompt share; a row without a prompt is one of its own."""
    for name in ("prompt_id", "prompt"):
        if name in dataset.column_names:
            return (
                number if not value else value if isinstance(value, str) else repr(value)
                for number, value in enumerate(dataset[name])
            )
    return range(len(dataset))


def sets_of_a_call(whole: dict[str, Any], samples: dict[str, Any], while_training: bool) -> dict[str, Any]:
    """
    Returns what one evaluation of a run's own test sets scores.

    Args:
        whole (`dict`): The test sets.
        samples (`dict`): From [`sample_sets`]; empty where the curve is of the whole sets.
        while_training (`bool`): Whether it is an evaluation between the first and the last step.
    """
    return samples if samples and while_training else {**whole, **samples}
