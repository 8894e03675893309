"""
Converts conversations in other forms than role and content into messages.

- ShareGPT: `{"from": "human", "value": …}`; the sides `function_call` and `observation` as in LLaMA-Factory
  (github.com/hiyouga/LLaMA-Factory, data/README.md).
- Conversations stored as JSON text in a column of strings, or as pandas writes lists into CSV.
- HelpSteer: turns behind `<extra_id_1>User` and `<extra_id_1>Assistant` in one string.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from ..output.strict_json import strict_json


SIDES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_STORED = re.compile(r"""\s*(\[\s*\{\s*["'](role|from|content|value)|\{\s*["'](role|from))["']\s*:""")
_EXTRA_ID = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def is_turn(value: Any) -> bool:
    """Whether a value is one message: with a role, or a turn of ShareGPT."""
    return isinstance(value, Mapping) and ("role" in value or {"from", "value"} <= value.keys())


def as_message(turn: Any) -> Any:
    """
    Returns a turn of ShareGPT as a message; anything else unchanged.

    Raises:
        `ValueError`: for a side that has no role.
    """
    if not isinstance(turn, Mapping) or "role" in turn or not {"from", "value"} <= turn.keys():
        return turn
    side, value = turn["from"], turn["value"]
    rest = {name: entry for name, entry in turn.items() if name not in ("from", "value") and entry is not None}
    if side == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": _tool_calls(value), **rest}
    if side not in SIDES:
        raise ValueError(f"is `from` '{side}', which is none of {', '.join(sorted(SIDES))}, function_call")
    return {"role": SIDES[side], "content": value, **rest}


def _tool_calls(value: Any) -> list[dict[str, Any]]:
    try:
        calls = strict_json(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ValueError(f"is a function_call whose value is not valid JSON ({error.msg})") from error
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise ValueError("is a function_call without the name of the function")
    return [{"type": "function", "function": dict(call)} for call in calls]


def looks_stored(text: Any) -> bool:
    """Whether a string seems to be a conversation stored as JSON text."""
    return isinstance(text, str) and _STORED.match(text) is not None


def stored_conversation(text: Any) -> list[Any] | None:
    """Returns the turn or turns of a conversation stored as JSON text; `None` for any other value."""
    if not looks_stored(text):
        return None
    for parse in (json.loads, ast.literal_eval):  # the second parses a list as written by pandas
        try:
            turns = parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(turns, Mapping):
            return [turns] if is_turn(turns) and turns.keys() & {"content", "value"} else None
        return turns if isinstance(turns, list) and all(map(is_turn, turns)) else None
    return None


def marked_turns(text: str) -> list[dict[str, str]] | str:
    """Splits a string into turns at `<extra_id_1>`; returns the string itself if there is none."""
    parts = _EXTRA_ID.split(text)
    if len(parts) == 1:
        return text
    turns = [{"role": "user", "content": parts[0]}] if parts[0] else []
    turns += [{"role": name.lower(), "content": said} for name, said in zip(parts[1::2], parts[2::2])]
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns
