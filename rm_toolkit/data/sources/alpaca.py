"""
Alpaca rows with two answers, and similar question-answer pairs.

- `instruction`, `input` (may be empty), `chosen`, `rejected`, with `system` and `history` ([question, answer] turns):
  LLaMA-Factory's preference form, github.com/hiyouga/LLaMA-Factory, data/README.md. The prompt is instruction, line end,
  input: Alpaca's own order (github.com/tatsu-lab/stanford_alpaca, train.py).
- `system`, `question`, `chosen`, `rejected`: Intel/orca_dpo_pairs; with `input` for the question and a `status`, where
  `tie` says that neither is better: argilla/distilabel-intel-orca-dpo-pairs.
"""

from __future__ import annotations

from typing import Any

from ..places import Place
from ..schema import RawRow, describe, field, text_value
from .base import Record, Source, SourceOptions
from .columns import pair_scores
from .values import optional_text


ASKED = ("instruction", "question", "query", "prompt", "input")


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of a better and a worse answer, with the assembled question."""
    asked = next((name for name in ASKED if record.get(name) is not None), ASKED[0])
    prompt: Any = text_value(field(record, asked, place), asked, place)
    more = optional_text(record.get("input"), "input", place) if asked != "input" else None
    if more is not None:
        prompt = f"{prompt}\n{more}"
    history = _history(record.get("history"), place)
    if history:
        prompt = [*history, {"role": "user", "content": prompt}]
    answers = [text_value(field(record, name, place), name, place) for name in ("chosen", "rejected")]
    scores, margin = pair_scores(record, place, options)
    if record.get("status") == "tie":
        scores = [0.5, 0.5]
    system = optional_text(record.get("system"), "system", place)
    return RawRow(prompt=prompt, completions=answers, scores=scores, margin=margin, system=system)


def _history(value: Any, place: Place) -> list[dict[str, str]]:
    """The turns before the question."""
    turns = []
    for number, pair in enumerate(value or []):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise place.error(f"`history[{number}]` must be [question, answer], got {describe(pair)}.")
        for role, text in zip(("user", "assistant"), pair):
            turns.append({"role": role, "content": text_value(text, f"history[{number}]", place)})
    return turns


SOURCE = Source(
    "alpaca",
    "instruction and input (or system and question) with chosen and rejected: Alpaca, Orca pairs",
    row,
    "human-assistant",
)
