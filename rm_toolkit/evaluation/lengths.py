"""How much a reward depends on length: correlations, accuracy by length ratio, and the rule "the longer text wins"."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from .calibration import wins_of


# Length of the chosen response divided by that of the rejected one.
RATIO_EDGES = (0.5, 0.8, 1.25, 2.0)
RATIO_NAMES = ("under 1/2", "1/2 to 4/5", "4/5 to 5/4", "5/4 to 2", "2 and over")


def length_correlation(rewards: np.ndarray, lengths: np.ndarray) -> dict[str, float | None]:
    """
    Correlation of the reward of a text with the length of its completion.

    Args:
        rewards (`np.ndarray` of shape `(num_texts,)`): In logits.
        lengths (`np.ndarray` of shape `(num_texts,)`): In characters.

    Returns:
        `dict[str, float]`: `pearson` and `spearman`; `None` if the rewards or the lengths are all the same.
    """
    if len(rewards) < 3 or np.ptp(rewards) == 0 or np.ptp(lengths) == 0:
        return {"pearson": None, "spearman": None}
    return {
        "pearson": float(stats.pearsonr(rewards, lengths).statistic),
        "spearman": float(stats.spearmanr(rewards, lengths).statistic),
    }


def longer_wins(better_lengths: np.ndarray, worse_lengths: np.ndarray) -> np.ndarray:
    """Wins of the rule "the longer completion is the better one" per pair: 1, 0.5 for equal lengths, or 0."""
    return wins_of(better_lengths - worse_lengths)


def accuracy_by_length(
    wins: np.ndarray, better_lengths: np.ndarray, worse_lengths: np.ndarray
) -> list[dict[str, Any]]:
    """
    Accuracy by the length ratio of the chosen to the rejected response.

    Args:
        wins (`np.ndarray` of shape `(num_pairs,)`): From [`~rm_toolkit.evaluation.metrics.wins_of`].
        better_lengths, worse_lengths (`np.ndarray` of shape `(num_pairs,)`): Characters of the two responses.

    Returns:
        `list[dict]`: `ratio` (length of chosen over rejected, in words), `num_pairs`, `accuracy` and `longer_wins` (the
        rule's accuracy on the same pairs); `None` if there are no pairs.
    """
    ratio = np.maximum(better_lengths, 1) / np.maximum(worse_lengths, 1)
    bins = np.searchsorted(RATIO_EDGES, ratio, side="right")
    rule = longer_wins(better_lengths, worse_lengths)
    rows = []
    for number, name in enumerate(RATIO_NAMES):
        inside = bins == number
        count = int(inside.sum())
        rows.append(
            {
                "ratio": name,
                "num_pairs": count,
                "accuracy": float(wins[inside].mean()) if count else None,
                "longer_wins": float(rule[inside].mean()) if count else None,
            }
        )
    return rows
