"""Chat messages: role, content, and whatever else a chat template can render (`tool_calls`, `reasoning_content`, `name`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError, name_list


Message = dict[str, Any]

PLAIN_FIELDS = frozenset({"role", "content"})
# Columns of a row that a chat template reads beside the messages, as in TRL.
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")


def extra_fields(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the fields beside `role` and `content` that say something, each once, in order."""
    names: dict[str, None] = {}
    for message in messages:
        if len(message) > 2 or not message.keys() <= PLAIN_FIELDS:
            names.update(dict.fromkeys(k for k, v in message.items() if k not in PLAIN_FIELDS and v is not None))
    return list(names)


def unread(names: Iterable[str]) -> InputError:
    """Returns the error for message fields or columns that a chat template could read, and that are not read."""
    listed = name_list(names)
    return InputError(
        f"{listed} would not be read, so that texts which differ only there would be one. Write what the model is to read "
        "into `content`, or remove it from the rows."
    )


def check_template_columns(row: Mapping[str, Any]) -> None:
    """Raises an `InputError` if a row has tools or settings for the chat template."""
    names = [name for name in TEMPLATE_COLUMNS if row.get(name)]
    if names:
        raise unread(names)
