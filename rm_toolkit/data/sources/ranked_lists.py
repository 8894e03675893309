"""
Lists of texts with a list of ranks or scores.

A question, `responses` (`answers`, `completions`, `generations`), and for each its rank (1 or 0 is best) in `ranks`
(`rank`, `rankings`), or its score in `scores` (`ratings`, `rewards`).
"""

from __future__ import annotations

from ..places import Place
from ..schema import RawRow, check_ranked, field, number_value, read_conversation
from .base import Record, Source, SourceOptions
from .values import in_range, texts


ASKED = ("prompt", "instruction", "question", "query", "input")
LISTS = ("responses", "answers", "completions", "generations", "candidates")
RANKS = ("ranks", "rank", "rankings")
SCORES = ("scores", "ratings", "rewards", "score", "rating")


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of all answers, the rank of each turned into a score."""
    asked = next((name for name in ASKED if record.get(name) is not None), ASKED[0])
    prompt = read_conversation(field(record, asked, place), asked, place)
    name = next((name for name in LISTS if record.get(name) is not None), LISTS[0])
    answers = texts(field(record, name, place), name, place)
    label = next((label for label in (*RANKS, *SCORES) if record.get(label) is not None), RANKS[0])
    values = field(record, label, place)
    check_ranked(answers, values, (name, label), place)
    if label in RANKS:
        scores = [0.0 - in_range(value, f"{label}[{n}]", 0, len(answers), place) for n, value in enumerate(values)]
    else:
        scores = [number_value(value, f"{label}[{n}]", place) for n, value in enumerate(values)]
    return RawRow(prompt=prompt, completions=answers, scores=scores)


SOURCE = Source(
    "ranked-lists", "a list of answers and a list of their ranks (1 is best) or scores", row, "human-assistant"
)
