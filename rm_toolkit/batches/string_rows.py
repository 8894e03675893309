"""Blocks of string rows, read column by column: a fast path for most data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import inf, isfinite
from typing import Any

from ..data.messages import TEMPLATE_COLUMNS
from .preference_rows import PreferenceRow


SCORES = ("score_chosen", "score_rejected")
# Columns with more than strings and numbers; such rows are read one by one.
MORE = (*TEMPLATE_COLUMNS, "rejected_domain", "completion_domains")
LABELS = [1.0, 0.0]  # the scores of (chosen, rejected) if the rows have none


def string_rows(block: Mapping[str, Sequence[Any]], ranked: bool) -> list[PreferenceRow] | None:
    """
    Returns the rows of a block as [`~rm_toolkit.batches.preference_rows.as_row`] reads them one by one, in a third of
    the time. `None` if a row has more than strings and finite scores: it is then read or refused row by row.

    Args:
        block (mapping of columns): As yielded by `datasets.Dataset.iter`.
        ranked (`bool`): Whether its rows are ranked rows; otherwise they are pairs.
    """
    if "prompt" not in block or not _all(str, block["prompt"]) or not all(_absent(block, name) for name in MORE):
        return None
    found = _ranked(block) if ranked else _pairs(block)
    if found is None:
        return None
    nothing = [None] * len(block["prompt"])
    columns = (block.get(name, nothing) for name in ("prompt_id", "margin", "domain"))
    return [
        PreferenceRow(prompt, completions, scores, prompt_id or prompt or None, margin, None, domain)
        for prompt, completions, scores, prompt_id, margin, domain in zip(block["prompt"], *found, *columns)
    ]


def _pairs(block: Mapping[str, Sequence[Any]]) -> tuple[list[list[str]], list[list[float]]] | None:
    """Responses and scores of each row; `None` unless they are strings, and the scores do not contradict the label."""
    texts = block["chosen"], block["rejected"]
    if not all(_all(str, column) for column in texts):
        return None
    responses = list(map(list, zip(*texts)))
    if all(_absent(block, name) for name in SCORES):
        return responses, [LABELS] * len(responses)
    if not all(name in block and _all(float, block[name]) for name in SCORES):
        return None
    scores = list(map(list, zip(*(block[name] for name in SCORES))))
    agree = all(inf > chosen >= rejected > -inf for chosen, rejected in scores)  # false for NaN
    return (responses, scores) if agree else None


def _ranked(block: Mapping[str, Sequence[Any]]) -> tuple[Sequence[list[str]], Sequence[list[float]]] | None:
    """Responses and scores of each row; `None` unless they are strings and as many finite numbers."""
    responses, scores = block["completions"], block["scores"]
    if not _all(list, responses) or not _all(list, scores):
        return None
    counts = list(map(len, responses))
    if min(counts) < 2 or counts != list(map(len, scores)) or not _all(str, chain.from_iterable(responses)):
        return None
    numbers = list(chain.from_iterable(scores))
    return (responses, scores) if _all(float, numbers) and all(map(isfinite, numbers)) else None


def _all(kind: type, values: Iterable[Any]) -> bool:
    return set(map(type, values)) == {kind}


def _absent(block: Mapping[str, Sequence[Any]], name: str) -> bool:
    return name not in block or all(value is None for value in block[name])
