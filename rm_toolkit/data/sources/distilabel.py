"""
Data of distilabel, and Argilla's datasets made with it.

- `instruction`, `generations` and `ratings` (or `rating`), lists of one length: the UltraFeedback task,
  distilabel.argilla.io, "UltraFeedback". Texts with a null rating are left out and counted.
- `instruction`, `chosen_response`, `rejected_response` with `chosen_avg_rating` or `chosen_rating` (and the other side's):
  huggingface.co/datasets/argilla/ultrafeedback-binarized-preferences and argilla/distilabel-math-preference-dpo.
- `chosen` and `rejected` conversations with `rating_chosen` and `rating_rejected`
  (argilla/distilabel-capybara-dpo-7k-binarized), `chosen-rating`, `chosen_rating` or `chosen_score` and the other side's.
"""

from __future__ import annotations

import math

from ..pairing import label_scores
from ..places import Place
from ..schema import (
    RawRow,
    check_ranked,
    describe,
    field,
    read_conversation,
    stored_texts,
    text_or_messages,
)
from .base import Record, Source, SourceOptions
from .values import in_range, optional_text, texts


ASKED = ("instruction", "prompt", "input", "question")
PAIRS = (("chosen_response", "rejected_response"), ("chosen", "rejected"))
RATINGS = (
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_score", "rejected_score"),
)
RATED = (0, 10)  # by the judging language model: 1 to 5 or 1 to 10, and means of them
WITHOUT = "generations without a rating left out"


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of all rated generations, or of a better and a worse answer with their ratings."""
    asked = next((name for name in ASKED if record.get(name) is not None), None)
    prompt = None if asked is None else read_conversation(record[asked], asked, place)
    system = optional_text(record.get("system_prompt"), "system_prompt", place)
    pair = next((names for names in PAIRS if names[0] in record), None)
    if pair is not None:
        record.get("conversation")  # Capybara: its source; `chosen` repeats it
        sides = stored_texts({name: field(record, name, place) for name in pair}, place)
        answers = [text_or_messages(text, name, place) for text, name in zip(sides, pair)]
        rated = next((names for names in RATINGS if record.get(names[0]) is not None), RATINGS[0])
        ratings = [record.get(name) for name in rated]
        low, high = (-math.inf, math.inf) if rated[0].endswith("score") else RATED
        ratings = [None if r is None else in_range(r, name, low, high, place) for r, name in zip(ratings, rated)]
        scores = label_scores(*ratings, place)
        return RawRow(prompt=prompt, completions=answers, scores=scores, system=system)
    answers = texts(field(record, "generations", place), "generations", place)
    name = "ratings" if record.get("ratings") is not None else "rating"
    ratings = field(record, name, place)
    if not isinstance(ratings, list):
        raise place.error(f"`{name}` must be a list, got {describe(ratings)}.")
    check_ranked(answers, ratings, ("generations", name), place)
    given = [n for n, rating in enumerate(ratings) if rating is not None]
    if len(given) < 2:
        raise place.error(f"`{name}` has {len(given)} numbers; a preference needs at least two.")
    return RawRow(
        prompt=prompt,
        completions=[answers[n] for n in given],
        scores=[in_range(ratings[n], f"{name}[{n}]", *RATED, place) for n in given],
        system=system,
        notes=(WITHOUT,) * (len(answers) - len(given)),
    )


SOURCE = Source(
    "distilabel",
    "distilabel and Argilla: rated generations, or chosen and rejected with their ratings; Capybara",
    row,
    "human-assistant",
)
