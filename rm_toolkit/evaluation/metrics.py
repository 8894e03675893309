"""Metrics of a preference test set from the rewards of its sequences: counts, and one division at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.tokenization import TokenizedPreferences


@dataclass
class PreferenceMetrics:
    """
    What a reward model makes of one test set.

    Args:
        accuracy (`float`): Share of pairs whose preferred response has the higher reward; equal rewards count half.
        first_two_accuracy (`float`): The same over the two best-scored responses of each row.
        margin (`float`): Mean reward of the better minus the worse response, in logits.
        loss (`float`): Mean negative log-likelihood of the preferences, in nats.
        reward_mean (`float`): Mean reward over the distinct texts of the set, in logits.
        reward_std (`float`): Its standard deviation over them (divided by their number), in logits.
        num_pairs (`int`): Pairs counted.
        num_ties (`int`): Pairs whose two rewards are equal.
        num_label_ties (`int`): Pairs whose two scores are equal; they are not in `num_pairs`.
    """

    accuracy: float
    first_two_accuracy: float
    margin: float
    loss: float
    reward_mean: float
    reward_std: float
    num_pairs: int
    num_ties: int
    num_label_ties: int


def preference_metrics(rewards: np.ndarray, data: TokenizedPreferences) -> PreferenceMetrics:
    """
    Args:
        rewards (`np.ndarray` of shape `(num_sequences,)`): Reward of each distinct sequence of `data`, in logits.
        data (`TokenizedPreferences`): The test set.

    Returns:
        `PreferenceMetrics`: NaN where there is no pair to count.

    Raises:
        `ValueError`: if there is not one reward for each sequence.
    """
    if rewards.shape != (data.num_sequences,):
        raise ValueError(f"`rewards` has shape {rewards.shape}, but '{data.name}' has {data.num_sequences} sequences.")
    rewards = rewards.astype(np.float64)
    difference = rewards[data.better] - rewards[data.worse]
    shifted = difference if data.margin is None else difference - data.margin
    wins, ties = int((difference > 0).sum()), int((difference == 0).sum())
    first = rewards[data.first_two[:, 0]] - rewards[data.first_two[:, 1]]
    first_wins = (first > 0).sum() + (first == 0).sum() / 2
    num_pairs = len(difference)
    return PreferenceMetrics(
        accuracy=_ratio(wins + ties / 2, num_pairs),
        first_two_accuracy=_ratio(first_wins, len(first)),
        margin=_ratio(difference.sum(), num_pairs),
        loss=_ratio(np.logaddexp(0.0, -shifted).sum(), num_pairs),
        reward_mean=float(rewards.mean()) if len(rewards) else float("nan"),
        reward_std=float(rewards.std()) if len(rewards) else float("nan"),
        num_pairs=num_pairs,
        num_ties=ties,
        num_label_ties=data.num_label_ties,
    )


def _ratio(total: float, count: int) -> float:
    return float(total) / count if count else float("nan")
