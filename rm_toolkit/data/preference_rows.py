"""Rows of a preference data set, pairs and ranked rows alike, as they are tokenised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .encoding import Text
from .messages import check_template_columns, extra_fields, unread


@dataclass
class PreferenceRow:
    """
    One row as it is tokenised.

    Args:
        prompt (`str` or list of messages): Empty where the completions hold it.
        completions (list of K `str` or message lists): The responses.
        scores (list of K `float`): Higher is better.
        prompt_key: What rows of one prompt share; `None` where the row has no prompt.
        margin (`float`, *optional*): Wanted difference of the rewards.
    """

    prompt: Text
    completions: list[Text]
    scores: list[float]
    prompt_key: Any
    margin: float | None


def check_columns(names: Iterable[str], name: str) -> bool:
    """
    Returns whether rows with these columns are ranked rows; else they are pairs.

    Raises:
        `InputError`: if they are neither.
    """
    names = set(names)
    ranked = {"completions", "scores"} <= names
    if not ranked and not {"chosen", "rejected"} <= names:
        raise InputError(
            f"data set '{name}' has the columns {sorted(names)}; a preference data set has `chosen` and `rejected`, or "
            "`completions` and `scores`. Build one with `rm-toolkit build-data`."
        )
    return ranked


def as_row(row: Mapping[str, Any], ranked: bool) -> PreferenceRow:
    """
    Reads one row of a preference data set.

    Args:
        row (`dict`): Columns of a pair or of a ranked row, with or without `prompt`, `prompt_id` and `margin`.
        ranked (`bool`): Which of the two.
    """
    check_template_columns(row)
    completions = row["completions"] if ranked else [row["chosen"], row["rejected"]]
    prompt = row.get("prompt")
    if prompt is None:
        prompt = [] if isinstance(completions[0], list) else ""
    scores = row["scores"] if ranked else _pair_scores(row)
    key = row.get("prompt_id") or (text_key(prompt, "") if prompt else None)
    return PreferenceRow(prompt, completions, scores, key, row.get("margin"))


def _pair_scores(row: dict) -> list[float]:
    """Scores of (chosen, rejected); 1 and 0 where the row has none or they contradict the columns' names."""
    chosen, rejected = row.get("score_chosen"), row.get("score_rejected")
    if chosen is None or rejected is None or not chosen > rejected:
        return [1.0, 0.0]
    return [chosen, rejected]


def text_key(prompt: Text, completion: Text) -> Any:
    """What two texts share if they are the same text."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt + completion
    messages = (prompt if isinstance(prompt, list) else []) + (completion if isinstance(completion, list) else [])
    extra = extra_fields(messages)
    if extra:
        raise unread(extra)
    return tuple((message["role"], message["content"]) for message in messages)
