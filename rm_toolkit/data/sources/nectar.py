"""
Nectar: `prompt`, a dialogue with the markers of HH, and `answers`, each with `answer` and `rank`, 1 best of seven.

huggingface.co/datasets/berkeley-nest/Nectar.
"""

from __future__ import annotations

from ..places import Place
from ..schema import RawRow, check_ranked, describe, field, read_conversation, text_value
from .base import Record, Source, SourceOptions
from .values import in_range


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of all answers, the rank of each turned into a score."""
    prompt = read_conversation(field(record, "prompt", place), "prompt", place)
    entries = field(record, "answers", place)
    check_ranked(entries, entries, ("answers", "answers"), place)
    texts, scores = [], []
    for number, entry in enumerate(entries):
        name = f"answers[{number}]"
        if not isinstance(entry, dict):
            raise place.error(f"`{name}` must be an object with 'answer' and 'rank', got {describe(entry)}.")
        texts.append(text_value(field(entry, "answer", place), f"{name}.answer", place))
        scores.append(0.0 - in_range(field(entry, "rank", place), f"{name}.rank", 1, len(entries), place))
    return RawRow(prompt=prompt, completions=texts, scores=scores)


SOURCE = Source("nectar", "Nectar: answers with ranks, 1 is best", row, "none", license="apache-2.0")
