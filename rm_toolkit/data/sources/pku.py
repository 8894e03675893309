"""
PKU-SafeRLHF: two responses, with the indices of the more helpful and the safer one.

`prompt`, `response_0`, `response_1`, `better_response_id`, `safer_response_id` (0 or 1):
huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF. Helpfulness is read unless `label` says `safer`.
"""

from __future__ import annotations

from ..places import Place
from ..schema import RawRow, field, text_value
from .base import Record, Source, SourceOptions
from .values import chosen_label, one_of, scores_of


LABELS = {"better": "better_response_id", "safer": "safer_response_id"}


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of the two responses, scored 1 and 0."""
    prompt = text_value(field(record, "prompt", place), "prompt", place)
    answers = [text_value(field(record, name, place), name, place) for name in ("response_0", "response_1")]
    known = [name for name, column in LABELS.items() if column in record]
    label = "better" if options.label is None and "better" in known else chosen_label(options.label, known, place)
    better = one_of(field(record, LABELS[label], place), LABELS[label], {0: 0, 1: 1}, place)
    for column in LABELS.values():
        record.get(column)
    return RawRow(prompt=prompt, completions=answers, scores=scores_of(better))


SOURCE = Source(
    "pku-saferlhf",
    "PKU-SafeRLHF: two responses, the better one's index; --label safer for the safer one's",
    row,
    "human-assistant",
    accepts=("label",),
)
