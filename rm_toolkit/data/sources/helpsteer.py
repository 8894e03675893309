"""
HelpSteer, all of its files; a prompt with several turns has `<extra_id_1>User` and `<extra_id_1>Assistant` between
them.

- `prompt`, `response` and five attributes from 0 to 4, one response per row, the two of a prompt in sequence;
  `helpfulness` is the score: huggingface.co/datasets/nvidia/HelpSteer2.
- `prompt`, `response_1`, `response_2`, `preference_strength` from -3 (the first is much better) to 3: its preference folder.
- `context` (messages), `response1`, `response2`, `overall_preference` from -3 to 3: huggingface.co/datasets/nvidia/HelpSteer3.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import InputError
from ..places import Place
from ..schema import RawRow
from ..turns import marked_turns
from . import columns
from .base import Record, Records, Source, SourceOptions
from .values import in_range


ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of the responses to one prompt."""
    return columns.row(record, place, options)


def join(records: Records, options: SourceOptions) -> Records:
    """Joins the responses to one prompt, and splits each prompt into turns."""
    return columns.join_neighbors(_parted(records), options)


def _parted(records: Records) -> Iterator[tuple[Place, Record | InputError]]:
    for place, record in records:
        if isinstance(record, dict):
            try:
                for name in ATTRIBUTES:
                    if record.get(name) is not None:
                        in_range(record[name], name, 0, 4, place)
            except InputError as error:
                record = error
            else:
                prompt = record.get("prompt")
                if isinstance(prompt, str):
                    record["prompt"] = marked_turns(prompt)
        yield place, record


SOURCE = Source(
    "helpsteer",
    "HelpSteer 1, 2 and 3: helpfulness of single responses, or a signed preference",
    row,
    "human-assistant",
    join=join,
    license="cc-by-4.0",
)
