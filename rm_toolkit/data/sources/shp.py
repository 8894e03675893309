"""
Stanford Human Preferences: two Reddit answers, of which `labels` 1 prefers A and 0 prefers B.

`history` is the post, `score_A` and `score_B` are net votes, `score_ratio` the greater over the lesser; the authors advise to
train on rows above a ratio (2 for T5): huggingface.co/datasets/stanfordnlp/SHP.
"""

from __future__ import annotations

import math

from ..places import Place
from ..schema import RawRow, field, number_value, text_value
from .base import LeftOut, Record, Source, SourceOptions
from .values import in_range, one_of, optional_text, scores_of


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of two answers with their votes."""
    prompt = text_value(field(record, "history", place), "history", place)
    answers = [text_value(field(record, name, place), name, place) for name in ("human_ref_A", "human_ref_B")]
    better = one_of(field(record, "labels", place), "labels", {1: 0, 0: 1}, place)
    votes = [record.get(name) for name in ("score_A", "score_B")]
    scores = scores_of(better)
    if None not in votes:
        scores = [number_value(vote, name, place) for vote, name in zip(votes, ("score_A", "score_B"))]
        if scores[better] < scores[1 - better]:
            told = f"`labels` prefers {'AB'[better]}, but `score_A` is {scores[0]:g} and `score_B` {scores[1]:g}."
            raise place.error(told)
    if options.min_score_ratio is not None:
        ratio = in_range(field(record, "score_ratio", place), "score_ratio", 1, math.inf, place)
        if ratio < options.min_score_ratio:
            raise LeftOut(f"rows with a score ratio below {options.min_score_ratio:g} left out")
    record.get("score_ratio")
    domain = optional_text(record.get("domain"), "domain", place)
    return RawRow(prompt=prompt, completions=answers, scores=scores, domain=domain)


SOURCE = Source(
    "shp",
    "Stanford Human Preferences: two answers with votes; --min-score-ratio",
    row,
    "human-assistant",
    accepts=("min_score_ratio",),
)
