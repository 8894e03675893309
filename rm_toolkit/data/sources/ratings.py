"""Finds overall scores that contradict the fine-grained ratings of the same answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..places import Place
from ..schema import RawRow
from .base import SourceOptions


OVERALL, FINE = (1, 10), (1, 5)  # UltraFeedback: one score of the critique, and the mean of four ratings
MOST_APART = 2  # of the four points of the finer scale


def contradictions(entries: Any) -> set[int]:
    """
    Returns which completions have an overall score that contradicts their own ratings.

    The overall score is converted to the scale of the ratings; a difference of more than half of that scale is a
    contradiction. The release of UltraFeedback gives 10 to answers whose critique gave 1: see the card of
    huggingface.co/datasets/argilla/ultrafeedback-binarized-preferences.
    """
    found = set()
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        overall, fine = (_overall(entry), _fine(entry)) if isinstance(entry, Mapping) else (None, None)
        if overall is not None and fine is not None:
            scaled = FINE[0] + (overall - OVERALL[0]) * (FINE[1] - FINE[0]) / (OVERALL[1] - OVERALL[0])
            if abs(scaled - fine) > MOST_APART:
                found.add(number)
    return found


def kept(row: RawRow, contradicting: set[int], options: SourceOptions, place: Place) -> RawRow:
    """Returns the row with its contradicting scores counted, and left out if the options say so."""
    if not contradicting:
        return row
    what = "scores that contradict their own fine-grained ratings"
    if not options.drop_contradictions:
        note = f"{what} kept (--drop-contradictions leaves them out)"
        return replace(row, notes=row.notes + (note,) * len(contradicting))
    rest = [n for n in range(len(row.completions)) if n not in contradicting]
    return replace(
        row,
        completions=[row.completions[n] for n in rest],
        scores=[row.scores[n] for n in rest],
        notes=row.notes + (f"{what} left out",) * len(contradicting),
    )


def _overall(entry: Mapping[str, Any]) -> float | None:
    return _number(entry.get("overall_score"))


def _fine(entry: Mapping[str, Any]) -> float | None:
    """The mean of the fine-grained ratings, as given or from the annotations."""
    stated = _number(entry.get("fine-grained_score", entry.get("fine_grained_score")))
    annotations = entry.get("annotations")
    if stated is not None or not isinstance(annotations, Mapping):
        return stated
    ratings = [_number(part.get("Rating")) for part in annotations.values() if isinstance(part, Mapping)]
    ratings = [rating for rating in ratings if rating is not None]
    return sum(ratings) / len(ratings) if ratings else None


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
