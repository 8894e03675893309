"""Rewards of a test set -> all of its metrics: pure functions of arrays, with results ready for JSON."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .calibration import brier_score, reliability
from .intervals import Bootstrap
from .lengths import accuracy_by_length, length_correlation, longer_wins
from .metrics import accuracy, count_ties, first_two_accuracy, mean_loss, mean_margin, reward_moments, wins_of
from .preferences import PreferencePairs, tag_values


def summarize(pairs: PreferencePairs, rewards: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    """
    Computes all metrics of one model on one test set.

    Args:
        pairs (`PreferencePairs`): The test set.
        rewards (`np.ndarray` of shape `(num_texts,)`): Reward of each distinct text, in logits.
        bootstrap (`Bootstrap`): How intervals are computed.

    Returns:
        `dict`: counts, `accuracy` (`value`, `low`, `high`), `first_two_accuracy` (`None` if no row has a best
        response), `margin` and `margin_interval`, `loss` (with the margins of the data), `brier`, `ece`,
        `confidence`, `reward` statistics, `length`, `reliability`, and under `by_tag` the main ones for each value of
        each tag.

    Raises:
        `ValueError`: if the number of rewards is not the number of texts.
    """
    if rewards.shape != (len(pairs.completions),):
        raise ValueError(
            f"`rewards` has shape {rewards.shape}, but '{pairs.name}' has {len(pairs.completions)} texts."
        )
    rewards = rewards.astype(np.float64)
    lengths = pairs.lengths
    chosen, rejected = rewards[pairs.better], rewards[pairs.worse]
    margins, wins = chosen - rejected, wins_of(chosen - rejected)
    curve = reliability(margins)
    mean, std = reward_moments(rewards[pairs.distinct])
    whole, margin_interval, by_tag = _whole_and_parts(pairs, margins, lengths, bootstrap)
    return {
        **whole,
        "margin_interval": margin_interval,
        "first_two_accuracy": _or_none(first_two_accuracy(rewards, pairs.first_two)),
        "loss": mean_loss(margins, pairs.margin),
        "confidence": float((curve.confidence * curve.counts)[curve.counts > 0].sum() / len(margins)),
        "num_label_ties": pairs.num_label_ties,
        "reward": {
            "mean": mean,
            "std": std,
            "chosen_mean": float(chosen.mean()),
            "rejected_mean": float(rejected.mean()),
        },
        "length": {
            **length_correlation(rewards, lengths),
            "by_ratio": accuracy_by_length(wins, lengths[pairs.better], lengths[pairs.worse]),
        },
        "reliability": {
            "edges": curve.edges.tolist(),
            "counts": curve.counts.tolist(),
            "confidence": [_or_none(value) for value in curve.confidence],
            "accuracy": [_or_none(value) for value in curve.accuracy],
        },
        "by_tag": by_tag,
    }


def compare(first: np.ndarray, second: np.ndarray, prompt: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    """
    Difference in accuracy of two models on the same pairs, both on the same resampled prompts.

    Args:
        first, second (`np.ndarray` of shape `(num_pairs,)`): Margins of the two models, in logits.
        prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt of each pair.
        bootstrap (`Bootstrap`): How the interval is computed.

    Returns:
        `dict`: `value` (second minus first), `low` and `high`.
    """
    difference = wins_of(second) - wins_of(first)
    low, high = bootstrap.interval(difference, prompt) or (None, None)
    return {"value": float(difference.mean()), "low": low, "high": high}


def _whole_and_parts(
    pairs: PreferencePairs, margins: np.ndarray, lengths: np.ndarray, bootstrap: Bootstrap
) -> tuple[dict[str, Any], list[float] | None, dict[str, dict[str, Any]]]:
    """Counts of the set, the interval of its margin, and counts by tag; a tag value that covers the set is not resampled."""
    wins = wins_of(margins)
    by_tag: dict[str, dict[str, Any]] = {tag: {} for tag in pairs.tags}
    parts = list(tag_values(pairs))
    smaller = [members for _, _, members in parts if len(members) < len(pairs)]
    with ThreadPoolExecutor() as pool:  # numpy releases the GIL while it draws and sums
        all_of_it = pool.submit(bootstrap.accuracy_intervals, wins, pairs.prompt, [margins])
        found = pool.map(lambda own: bootstrap.accuracy_interval(wins[own], pairs.prompt[own]), smaller)
        interval, margin_interval = all_of_it.result()
        whole = _counts(pairs, np.arange(len(pairs)), margins, lengths, interval)
        for tag, value, members in parts:
            own = len(members) < len(pairs)
            part = _counts(pairs, members, margins, lengths, next(found)) if own else copy.deepcopy(whole)
            by_tag[tag][value] = part
    return whole, margin_interval, by_tag


def _counts(
    pairs: PreferencePairs,
    members: np.ndarray,
    margins: np.ndarray,
    lengths: np.ndarray,
    interval: list[float] | None,
) -> dict[str, Any]:
    """The metrics that every part of a test set has, too; `interval` is that of its accuracy."""
    own, prompt = margins[members], pairs.prompt[members]
    low, high = interval or (None, None)
    rule = longer_wins(lengths[pairs.better[members]], lengths[pairs.worse[members]])
    return {
        "num_pairs": len(members),
        "num_prompts": len(np.unique(prompt)),
        "num_ties": count_ties(own),
        "accuracy": {"value": accuracy(own), "low": low, "high": high},
        "longer_wins": float(rule.mean()),
        "margin": mean_margin(own),
        "brier": brier_score(own),
        "ece": reliability(own).error,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
