"""
GPT-4-LLM comparison data, both releases.

- `comparison_data_v2.json`: `{"user_input", "responses_and_scores": [{"response", "source", "score"}]}`.
- `comparison_data.json`: `{"user_input", "completion_a", "completion_b"}`, where the first is better.
"""

from __future__ import annotations

from ..records import Place
from ..schema import RawRow, check_ranked, describe, field, number_value, text_value
from .base import Record, Source, SourceOptions


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of all scored responses, or of the better and the worse completion (scores 1 and 0)."""
    prompt = text_value(field(record, "user_input", place), "user_input", place)
    if "completion_a" in record and record.get("responses_and_scores") is None:
        pair = [text_value(field(record, name, place), name, place) for name in ("completion_a", "completion_b")]
        return RawRow(prompt=prompt, completions=pair, scores=[1.0, 0.0])
    responses = field(record, "responses_and_scores", place)
    check_ranked(responses, responses, ("responses_and_scores", "responses_and_scores"), place)
    texts, scores = [], []
    for number, response in enumerate(responses):
        name = f"responses_and_scores[{number}]"
        if not isinstance(response, dict):
            raise place.error(f"`{name}` must be an object with 'response' and 'score', got {describe(response)}.")
        texts.append(text_value(field(response, "response", place), f"{name}.response", place))
        scores.append(number_value(field(response, "score", place), f"{name}.score", place))
    return RawRow(prompt=prompt, completions=texts, scores=scores)


SOURCE = Source(
    "gpt4llm",
    "GPT-4-LLM comparison data: responses scored by GPT-4, both releases",
    row,
    "human-assistant",
    license="cc-by-nc-4.0",
)
