"""
WebGPT comparisons: `{"question": {"full_text"}, "answer_0", "answer_1", "score_0", "score_1", …}`.

Raw scores are between -1 and 1 and sum to 0; the original work published them with 1 added.
"""

from __future__ import annotations

import re

from ..records import Place
from ..schema import RawRow, describe, field, number_value, text_value
from .base import Record, Source, SourceOptions


CITATION = re.compile(r"[ \t]*\[\d+(?:[,\s]+\d+)*\]")


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of the two answers with their raw scores, without citation marks if the options say so."""
    question = field(record, "question", place)
    if not isinstance(question, dict):
        raise place.error(f"`question` must be an object with 'full_text', got {describe(question)}.")
    answers = [text_value(field(record, f"answer_{n}", place), f"answer_{n}", place) for n in (0, 1)]
    if options.strip_citations:
        answers = [strip_citations(answer) for answer in answers]
    return RawRow(
        prompt=text_value(field(question, "full_text", place), "question.full_text", place),
        completions=answers,
        scores=[number_value(field(record, f"score_{n}", place), f"score_{n}", place) for n in (0, 1)],
    )


def strip_citations(text: str) -> str:
    """Removes marks like `[1]` and `[1, 2]` with the space before them."""
    stripped = CITATION.sub("", text)
    return stripped.lstrip() if CITATION.match(text) else stripped


SOURCE = Source(
    "webgpt",
    "WebGPT comparisons: two scored answers",
    row,
    "human-assistant",
    accepts=("strip_citations",),
    license="cc-by-nc-4.0",
)
