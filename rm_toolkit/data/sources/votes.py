"""Combines the judgments of several annotators of one row."""

from __future__ import annotations

from collections.abc import Sequence


def mean_scores(judged: Sequence[dict[str, float]], names: Sequence[str]) -> list[float]:
    """
    Returns the mean score of each response over those who judged it.

    Args:
        judged (`Sequence[dict[str, float]]`): One mapping per annotator: name of a response -> score, higher is
            better.
        names (`Sequence[str]`): The responses; each is judged at least once.
    """
    given = {name: [scores[name] for scores in judged if name in scores] for name in names}
    return [sum(given[name]) / len(given[name]) for name in names]


def for_one(names: Sequence[str], better: str | None) -> dict[str, float]:
    """Returns the scores of a vote for one of several responses: 1 and 0, all 0.5 for a tie."""
    return {name: 0.5 if better is None else float(name == better) for name in names}
