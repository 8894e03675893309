"""
Metrics of a preference test set from the rewards of its texts: counts, and one division at the end.

Each metric has one function, used by training, `rm-toolkit evaluate`, the frontier and, through their results, studies
and model cards. Brier score and calibration error are in [`~rm_toolkit.evaluation.calibration`].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from ..batches.tokenization import TokenizedPreferences


@dataclass
class PreferenceMetrics:
    """
    Metrics of a reward model on one test set.

    Args:
        accuracy (`float`): Share of pairs whose preferred response has the higher reward; equal rewards count half.
        first_two_accuracy (`float`): The same over the two best-scored responses of each row.
        margin (`float`): Mean reward of the better minus the worse response, in logits.
        loss (`float`): The training objective: the mean of -log sigmoid(margin - wanted margin), in nats; the wanted
            margin is 0 if the data has none.
        reward_mean (`float`): Mean reward over the distinct texts of the set, in logits.
        reward_std (`float`): Population standard deviation of these rewards, in logits.
        num_pairs (`int`): Pairs counted.
        num_ties (`int`): Pairs whose two rewards are equal.
        num_label_ties (`int`): Pairs whose two scores are equal, see [`~rm_toolkit.data.pairing`]; not included in
            `num_pairs`.
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
        `PreferenceMetrics`: NaN if there are no pairs.

    Raises:
        `ValueError`: if the number of rewards is not the number of sequences.
    """
    if rewards.shape != (data.num_sequences,):
        raise ValueError(f"`rewards` has shape {rewards.shape}, but '{data.name}' has {data.num_sequences} sequences.")
    rewards = rewards.astype(np.float64)
    margins = rewards[data.better] - rewards[data.worse]
    mean, std = reward_moments(rewards)
    return PreferenceMetrics(
        accuracy=accuracy(margins),
        first_two_accuracy=first_two_accuracy(rewards, data.first_two),
        margin=mean_margin(margins),
        loss=mean_loss(margins, data.margin),
        reward_mean=mean,
        reward_std=std,
        num_pairs=len(margins),
        num_ties=count_ties(margins),
        num_label_ties=data.num_label_ties,
    )


def wins_of(margins: Any) -> Any:
    """
    Returns 1 for each pair ranked correctly, 0.5 for equal rewards, otherwise 0.

    Args:
        margins (`np.ndarray` or `torch.Tensor` of shape `(num_pairs,)`): Reward of the better minus that of the worse
            response, in logits.
    """
    return (margins > 0) + 0.5 * (margins == 0)


def accuracy(margins: np.ndarray) -> float:
    """Share of pairs ranked correctly, with `margins` as in [`wins_of`]; NaN without pairs, like all means here."""
    return _ratio(wins_of(margins).sum(), len(margins))


def first_two_accuracy(rewards: np.ndarray, first_two: np.ndarray) -> float:
    """
    Accuracy over the two best-scored responses of each row.

    Args:
        rewards (`np.ndarray` of shape `(num_texts,)`): Reward of each text, in logits.
        first_two (`np.ndarray` of shape `(num_rows_with_a_best, 2)`): Indices of the two texts, better first.
    """
    return accuracy(rewards[first_two[:, 0]] - rewards[first_two[:, 1]])


def count_ties(margins: np.ndarray) -> int:
    """Number of pairs with equal rewards."""
    return int((margins == 0).sum())


def mean_margin(margins: np.ndarray) -> float:
    """Mean of `margins`, in logits."""
    return _ratio(margins.sum(), len(margins))


def mean_loss(margins: np.ndarray, wanted: np.ndarray | None = None) -> float:
    """
    The training objective over these pairs, equally weighted: the mean of [`~rm_toolkit.losses.ranking_loss`], in nats.

    Args:
        margins (`np.ndarray` of shape `(num_pairs,)`): As in [`wins_of`].
        wanted (`np.ndarray` of shape `(num_pairs,)`, *optional*): Margins that the data asks for, in logits.
    """
    shifted = margins if wanted is None else margins - wanted
    return _ratio(np.logaddexp(0.0, -shifted).sum(), len(margins))


def reward_moments(rewards: np.ndarray) -> tuple[float, float]:
    """
    Mean and population standard deviation of rewards, in logits.

    Args:
        rewards (`np.ndarray` of shape `(num_texts,)`): One reward per text that the model can distinguish.
    """
    return (float(rewards.mean()), float(rewards.std())) if len(rewards) else (float("nan"), float("nan"))


def _ratio(total: float, count: int) -> float:
    return float(total) / count if count else float("nan")
