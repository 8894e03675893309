"""
Domain-Specific Preference: `{"query": str, "responses": {domain: str}}`, one answer per domain.

One domain's answer is preferred over each of the others: scores 1 and 0.
"""

from __future__ import annotations

from ...errors import did_you_mean
from ..records import Place
from ..schema import RawRow, describe, field, known_keys, text_value
from .base import Record, Source, SourceOptions


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row in which `options.domain` answers best."""
    query = text_value(field(record, "query", place), "query", place)
    responses = field(record, "responses", place)
    if not isinstance(responses, dict):
        raise place.error(f"`responses` must be an object {{domain: text}}, got {describe(responses)}.")
    # Parquet and saved datasets give every row all keys, with null for missing ones.
    texts = {
        name: text_value(text, f"responses.{name}", place) for name, text in responses.items() if text is not None
    }
    domain = options.domain
    if domain is None:
        problem = f"`domain` is not set. Whose answers are preferred? This row has answers of {known_keys(texts)}."
        raise place.error(problem, "Pass --domain NAME.")
    if domain not in texts and place.number == 1:
        remedy = did_you_mean(domain, texts) or "Use one of these."
        raise place.error(f"`domain` is '{domain}', but this file has {known_keys(texts)}.", remedy)
    if domain not in texts:
        raise place.error(
            f"`responses` has no '{domain}'.",
            f"Every item needs an answer of that domain; remove the {place.unit}, or pass --skip-invalid.",
        )
    if len(texts) < 2:
        raise place.error(f"`responses` has only '{domain}'; a preference needs at least two answers.")
    return RawRow(
        prompt=query,
        completions=list(texts.values()),
        scores=[float(name == domain) for name in texts],
        completion_domains=list(texts),
        domain=domain,
    )


SOURCE = Source(
    "dsp",
    "query and one response per domain (JSON or JSON Lines); needs --domain",
    row,
    "human-assistant",
    license="cc-by-nc-4.0",
)
