"""
ShareGPT preferences: `conversations` of `{"from", "value"}` turns, and a better and a worse next turn.

As LLaMA-Factory reads them (github.com/hiyouga/LLaMA-Factory, data/README.md): `chosen` and `rejected` are one turn each (lists
of turns are read too), `system` and `tools` may be present, the sides are human, gpt, system, function_call and
observation. `messages` with roles and contents are read in the same way.
"""

from __future__ import annotations

from ..messages import read_tools
from ..places import Place
from ..schema import RawRow, field, read_conversation, stored_texts, text_or_messages
from .base import Record, Source, SourceOptions
from .columns import pair_scores
from .values import optional_text


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of two answers to one conversation."""
    name = "conversations" if record.get("conversations") is not None else "messages"
    prompt = read_conversation(field(record, name, place), name, place)
    sides = {name: field(record, name, place) for name in ("chosen", "rejected")}
    answers = [text_or_messages(text, name, place) for text, name in zip(stored_texts(sides, place), sides)]
    scores, margin = pair_scores(record, place, options)
    system = optional_text(record.get("system"), "system", place)
    if system is not None and isinstance(prompt, list) and prompt[0]["role"] == "system":
        if prompt[0]["content"] != system:
            raise place.error("`system` and the first turn of the conversation are two different system messages.")
        system = None
    tools = record.get("tools")
    if isinstance(tools, str) and not tools.strip():
        tools = None
    try:
        tools = read_tools(tools)
    except ValueError as error:
        raise place.error(f"{error}.") from error
    return RawRow(prompt=prompt, completions=answers, scores=scores, margin=margin, system=system, tools=tools or None)


SOURCE = Source("sharegpt", "conversations of from/value turns, with chosen and rejected turns", row, "none")
