"""Evaluation inside a training run: every test set separately, with each distinct text scored once."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import speed_metrics

from ..batches.tokenization import TokenizedPreferences
from ..evaluation.metrics import preference_metrics
from ..evaluation.pair_rewards import PairRewards


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """
    A context in which a model computes without gradients and without dropout.

    Args:
        model (`torch.nn.Module`): In any mode, which is restored afterwards.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def evaluate_sets(
    sets: dict[str, Any],
    prefix: str,
    prepare: Callable[[Any, str], TokenizedPreferences],
    compute_rewards: Callable[[TokenizedPreferences], np.ndarray],
    found: dict[str, PairRewards] | None = None,
) -> dict[str, float]:
    """
    Scores every test set separately.

    Args:
        sets (`dict[str, Dataset]`): Test sets; one without a name is called `""`.
        prefix (`str`): `eval` gives `eval_<name>_accuracy`, or `eval_accuracy` for a set without a name.
        prepare (`Callable`): Tokenizes a set.
        compute_rewards (`Callable`): Returns the rewards of its sequences.
        found (`dict[str, PairRewards]`, *optional*): Receives the rewards of each set.

    Returns:
        `dict[str, float]`: `accuracy`, `first_two_accuracy`, `margin`, `loss`, `reward_mean`, `reward_std`, `num_pairs`,
        `num_ties` and `num_label_ties` of each set, and the speed over all.
    """
    begin = time.time()
    metrics: dict[str, float] = {}
    num_sequences = 0
    for name, dataset in sets.items():
        data = prepare(dataset, name or "eval")
        full = f"{prefix}_{name}" if name else prefix
        rewards = compute_rewards(data)
        values = dataclasses.asdict(preference_metrics(rewards, data))
        if found is not None:
            found[name or "eval"] = PairRewards.of(rewards, data)
        metrics.update({f"{full}_{key}": value for key, value in values.items()})
        num_sequences += data.num_sequences
    return metrics | speed_metrics(prefix, begin, num_samples=num_sequences)


def sets_by_name(dataset: Any, own: Any) -> dict[str, Any]:
    """
    Returns the sets to score, by name; a set without a name is called `""`.

    Args:
        dataset (`Dataset`, `dict[str, Dataset]` or `str`, *optional*): What the caller passed; a name chooses one of
            `own`.
        own (`Dataset` or `dict[str, Dataset]`): The test sets of the run, which are the default.
    """
    if isinstance(dataset, str):
        return {dataset: own[dataset]}
    sets = own if dataset is None else dataset
    return sets if isinstance(sets, dict) else {"": sets}
