"""
Votes between two models: Chatbot Arena and MT-Bench.

- `conversation_a`, `conversation_b`, `winner` (`model_a`, `model_b`, `tie`, `tie (bothbad)` or `both_bad`), `turn`:
  huggingface.co/datasets/lmsys/chatbot_arena_conversations and lmsys/mt_bench_human_judgments, where turn 1 was judged before the
  second exchange, which is in the row nevertheless; lmarena-ai/arena-human-preference-140k.
- `prompt`, `response_a`, `response_b` as JSON lists of turns, with `winner_model_a`, `winner_model_b`, `winner_tie`:
  lmarena-ai/arena-human-preference-55k, and its competition on Kaggle; with `winner`: WSDM Cup.
"""

from __future__ import annotations

import math
from typing import Any

from ..messages import Message, content_text
from ..places import Place
from ..schema import RawRow, describe, field, stored_texts, text_or_messages, text_value
from .base import Record, Source, SourceOptions
from .values import in_range, one_of, scores_of, texts


TIE, BOTH_BAD = "tie", "both bad"
WINNERS = {
    "model_a": 0,
    "model_b": 1,
    "a": 0,
    "b": 1,
    "tie": TIE,
    "tie (inconsistent)": TIE,  # MT-Bench: the judge changed its mind when the sides were swapped
    "both_bad": BOTH_BAD,
    "tie (bothbad)": BOTH_BAD,
    "tie (both bad)": BOTH_BAD,
    "bothbad": BOTH_BAD,
}
ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of two conversations: 1 and 0, equal scores for a tie, 0 for both if both are bad."""
    winner = _winner(record, place)
    scores = [0.0, 0.0] if winner == BOTH_BAD else scores_of(None if winner == TIE else winner)
    if "conversation_a" in record:
        sides = {name: field(record, name, place) for name in ("conversation_a", "conversation_b")}
        both = [_conversation(side, name, place) for side, name in zip(stored_texts(sides, place), sides)]
        turn = record.get("turn")
        if turn is not None:
            both = [_until_turn(messages, turn, place) for messages in both]
        return RawRow(prompt=None, completions=both, scores=scores)
    asked = _turns(field(record, "prompt", place), "prompt", place)
    answers = [_turns(field(record, name, place), name, place) for name in ("response_a", "response_b")]
    if len(asked) == 1 and all(len(answer) == 1 for answer in answers):
        return RawRow(prompt=asked[0], completions=[answer[0] for answer in answers], scores=scores)
    if any(len(answer) != len(asked) for answer in answers):
        told = ", ".join(f"`{name}` {len(a)}" for name, a in zip(("response_a", "response_b"), answers))
        raise place.error(f"`prompt` has {len(asked)} turns, but {told}; the numbers must be equal.")
    both = [
        [
            {"role": role, "content": text}
            for turn in zip(asked, answer)
            for role, text in zip(("user", "assistant"), turn)
        ]
        for answer in answers
    ]
    return RawRow(prompt=None, completions=both, scores=scores)


def _winner(record: Record, place: Place) -> Any:
    if "winner" in record:
        return one_of(field(record, "winner", place), "winner", WINNERS, place)
    flags = [one_of(record.get(name, 0), name, {0: 0, 1: 1}, place) for name in ONE_HOT]
    if sum(flags) != 1:
        told = ", ".join(f"`{name}` {flag}" for name, flag in zip(ONE_HOT, flags))
        raise place.error(f"one of the three must be 1 and the others 0: {told}.")
    return (0, 1, TIE)[flags.index(1)]


def _conversation(value: Any, name: str, place: Place) -> list[Message]:
    messages = text_or_messages(value, name, place)
    if isinstance(messages, str):
        raise place.error(f"`{name}` must be a list of messages, got {describe(value)}.")
    return [{**m, "content": content_text(m)} if isinstance(m.get("content"), list) else m for m in messages]


def _until_turn(messages: list[Message], turn: Any, place: Place) -> list[Message]:
    """The judged part of the conversation: up to the answer of that turn."""
    number = int(in_range(turn, "turn", 1, math.inf, place))
    ends = [n for n, message in enumerate(messages, 1) if message["role"] == "assistant"]
    return messages[: ends[number - 1]] if number <= len(ends) else messages


def _turns(value: Any, name: str, place: Place) -> list[str]:
    """The turns of one side: a JSON list of texts, or one text; a null turn was not answered."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [text_value(value, name, place)]
    return texts(value, name, place)


SOURCE = Source("arena", "two conversations and a winner: Chatbot Arena, MT-Bench", row, "human-assistant")
