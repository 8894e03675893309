"""
UltraFeedback as released: `instruction` and `completions`, each with a `response` and its scores.

`overall_score` (1 to 10) is read; `label: fine-grained_score` reads the mean of the four ratings (1 to 5) instead:
huggingface.co/datasets/openbmb/UltraFeedback. Overall scores that contradict the ratings are counted, see `ratings`.
"""

from __future__ import annotations

from ..places import Place
from ..schema import RawRow, check_ranked, describe, field, text_value
from .base import Record, Source, SourceOptions
from .ratings import FINE, OVERALL, contradictions, kept
from .values import chosen_label, in_range


RANGES = {"overall_score": OVERALL, "fine-grained_score": FINE}


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of all completions with their scores."""
    prompt = text_value(field(record, "instruction", place), "instruction", place)
    entries = field(record, "completions", place)
    check_ranked(entries, entries, ("completions", "completions"), place)
    label = chosen_label(options.label or "overall_score", list(RANGES), place)
    texts, scores = [], []
    for number, entry in enumerate(entries):
        name = f"completions[{number}]"
        if not isinstance(entry, dict):
            raise place.error(f"`{name}` must be an object with 'response' and '{label}', got {describe(entry)}.")
        texts.append(text_value(field(entry, "response", place), f"{name}.response", place))
        scores.append(in_range(field(entry, label, place), f"{name}.{label}", *RANGES[label], place))
    found = contradictions(entries) if label == "overall_score" else set()
    return kept(RawRow(prompt=prompt, completions=texts, scores=scores), found, options, place)


SOURCE = Source(
    "ultrafeedback",
    "UltraFeedback as released: completions with scores; --drop-contradictions, --label",
    row,
    "human-assistant",
    accepts=("label", "drop_contradictions"),
)
