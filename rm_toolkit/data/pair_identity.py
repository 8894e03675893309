"""The identity of a pair: every field of its texts, exactly."""

from __future__ import annotations

import hashlib
from typing import Any

from .messages import canonical, read_template_kwargs, read_tools
from .schema import Text


def text_id(*parts: Any) -> str:
    """Returns 16 hex digits over the parts of a text, independent of the order of keys in its messages."""
    return hashlib.sha256(canonical(list(parts)).encode("ascii")).hexdigest()[:16]


def pair_id(prompt: Text, chosen: Text, rejected: Text, *, tools: Any = None, chat_template_kwargs: Any = None) -> str:
    """
    Returns 16 hex digits that are the same for two pairs if (and, up to hash collisions, only if) every field of their
    texts is the same.

    Args:
        prompt, chosen, rejected (`str` or list of messages): The texts, as built.
        tools, chat_template_kwargs (*optional*): What the chat template reads besides them.
    """
    return text_id(
        prompt,
        chosen,
        rejected,
        *([tools or None, chat_template_kwargs or None] if tools or chat_template_kwargs else []),
    )


def row_pair_id(row: dict[str, Any]) -> str:
    """
    Returns the [`pair_id`] of a row of pairs, from a dataset or a list of pairs.

    Raises:
        `KeyError`: if it has no `chosen` or no `rejected`.
        `ValueError`: if its `tools` or `chat_template_kwargs` cannot be read.
    """
    prompt = row.get("prompt")
    if prompt is None:
        prompt = [] if isinstance(row["chosen"], list) else ""
    return pair_id(
        prompt,
        row["chosen"],
        row["rejected"],
        tools=read_tools(row.get("tools")),
        chat_template_kwargs=read_template_kwargs(row.get("chat_template_kwargs")),
    )
