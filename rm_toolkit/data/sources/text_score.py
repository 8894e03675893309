"""
The text-score format of the original work: `{"text": [str, …], "score": [float, …]}`, a text being prompt and response.

The prompt is what the texts of a row share.
"""

from __future__ import annotations

from ..records import Place
from ..schema import RawRow, check_ranked, field, number_value, text_value
from .base import Record, Source, SourceOptions


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row with its texts in file order and its scores unchanged."""
    texts, scores = field(record, "text", place), field(record, "score", place)
    check_ranked(texts, scores, ("text", "score"), place)
    return RawRow(
        prompt=None,
        completions=[text_value(text, f"text[{number}]", place) for number, text in enumerate(texts)],
        scores=[number_value(score, f"score[{number}]", place) for number, score in enumerate(scores)],
    )


SOURCE = Source("text-score", "the original's lists of texts and scores (JSON or JSON Lines)", row)
