"""
Chat messages: role, content, and other fields that a chat template can render (`tool_calls`, `reasoning_content`,
`name`).

A message is *plain* if it has a role and a string as content, and no other field with a value. Plain messages are
never changed here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import name_list
from ..output.strict_json import strict_json
from .exact_json import use_exact_json


Message = dict[str, Any]

PLAIN_FIELDS = frozenset({"role", "content"})
# Columns of a row that a chat template reads besides the messages, as in TRL.
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
# Fields that are not an answer on their own.
NAMING_FIELDS = frozenset({"name", "id", "tool_call_id"})
# Arguments of `apply_chat_template` itself, which no template sees.
NOT_FOR_TEMPLATES = frozenset(
    [
        "conversation",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "tools",
    ]
)


class Conversation(NamedTuple):
    """
    A text as the model reads it: prompt and completion, rendered together by the chat template.

    Args:
        prompt (`str` or list of messages): The prompt.
        completion (`str` or list of messages): The response.
        tools (list of `dict`, *optional*): JSON schemas of the tools that the template may list.
        chat_template_kwargs (`dict`, *optional*): More variables for the template.
    """

    prompt: Any
    completion: Any
    tools: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def messages(self) -> list[Message]:
        """All messages, in order; empty if prompt and completion are strings."""
        return [message for part in self[:2] if isinstance(part, list) for message in part]

    @property
    def is_plain(self) -> bool:
        """Whether only roles and contents are rendered."""
        return self.tools is None and not self.chat_template_kwargs and is_plain(self.messages)


def is_plain(messages: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all messages have a role and a string as content, and nothing else."""
    return all(isinstance(message.get("content"), str) for message in messages) and not extra_fields(messages)


def extra_fields(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the fields besides `role` and `content` that have a value, each once, in order."""
    names: dict[str, None] = {}
    for message in messages:
        if len(message) > 2 or not message.keys() <= PLAIN_FIELDS:
            names.update(dict.fromkeys(k for k, v in message.items() if k not in PLAIN_FIELDS and v is not None))
    return list(names)


def content_text(message: Mapping[str, Any]) -> str:
    """Returns the content of a message as one string: text parts joined, empty if it has none."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content or ""


def extras(message: Mapping[str, Any]) -> str:
    """Returns canonical JSON of a message's fields besides role and content; empty if there are none."""
    names = extra_fields([message])
    return canonical({name: message[name] for name in names}) if names else ""


def canonical(value: Any) -> str:
    """Returns JSON that is the same for equal values in any order of keys."""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"has a value that JSON cannot store ({error})") from error


def says_nothing(messages: Iterable[Mapping[str, Any]]) -> bool:
    """Whether messages have only white space as content, and no other field that could be an answer."""
    return not any(
        content_text(message).strip() or any(message[f] for f in extra_fields([message]) if f not in NAMING_FIELDS)
        for message in messages
    )


def read_message(message: Any, check_string: Callable[[Any, str], str]) -> Message:
    """
    Returns a message as it is stored: role, content, then the other fields that are not null.

    Args:
        message: The message from the source.
        check_string (`Callable`): Called with a string and its name; returns it if it can be stored, else raises.

    Raises:
        `ValueError`: saying what the message must be.
    """
    if not isinstance(message, Mapping) or "role" not in message:
        raise ValueError("must be {'role': …, 'content': …}")
    extra = extra_fields([message])
    content = message.get("content")
    if content is None and not extra:
        raise ValueError("must be {'role': …, 'content': …}, with a content or another field that has a value")
    read: Message = {"role": check_string(message["role"], "role")}
    if isinstance(content, list) and content:
        read["content"] = [_text_part(part) for part in content]
    elif content is not None:
        read["content"] = check_string(content, "content")
    elif "content" in message:
        read["content"] = None
    for name in extra:
        read[str(name)] = message[name]
        canonical(message[name])
    return {name: read[name] for name in map(str, message) if name in read}  # in the original order


def check_parts(messages: Iterable[Mapping[str, Any]]) -> None:
    """Raises a `ValueError` for a part of a content that is not text: images, sounds and the like."""
    for number, message in enumerate(messages, 1):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            try:
                _text_part(part)
            except ValueError as error:
                raise ValueError(f"message {number} {error}") from error


def _text_part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise ValueError(
            f"has a part of type '{kind}' in its content; a text model reads only "
            "parts like {'type': 'text', 'text': …}"
        )
    return {name: value for name, value in part.items() if value is not None}


def read_tools(value: Any) -> list[Any] | None:
    """
    Returns the tools of a row, given as a list of JSON schemas or, as in TRL, as a JSON string of one.

    Raises:
        `ValueError`: saying what is wrong.
    """
    tools = _parsed(value, "tools")
    if tools is None or (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        canonical(tools)
        return tools
    raise ValueError("`tools` must be a list of JSON schemas")


def read_template_kwargs(value: Any) -> dict[str, Any] | None:
    """
    Returns the template variables of a row; `None` if there are none.

    Raises:
        `ValueError`: saying what is wrong.
    """
    kwargs = _parsed(value, "chat_template_kwargs")
    if kwargs is None or kwargs == {}:
        return None
    if not isinstance(kwargs, Mapping):
        raise ValueError("`chat_template_kwargs` must be an object {name: value}")
    taken = sorted(NOT_FOR_TEMPLATES & kwargs.keys())
    if taken:
        raise ValueError(f"`chat_template_kwargs` has {name_list(taken)}, which no chat template reads")
    canonical(kwargs)
    return dict(kwargs)


def _parsed(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return strict_json(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"`{name}` is a string that is not valid JSON ({error.msg})") from error


def text_format_problem(messages: Iterable[Mapping[str, Any]], tools: Any = None, kwargs: Any = None) -> str | None:
    """Returns a sentence about what in a row the text format cannot express; `None` for plain messages."""
    messages = list(messages)
    names = extra_fields(messages)
    names += [name for name, value in zip(TEMPLATE_COLUMNS, (tools, kwargs)) if value]
    if names:
        return (
            f"{name_list(names)} would not be read: the text format has no place for fields that only a chat "
            f"template renders."
        )
    if not all(isinstance(message.get("content"), str) for message in messages):
        return "the content of a message is not a string, and the text format has no place for parts."
    return None


def null_stripper(features: Mapping[str, Any] | None) -> Callable[[Mapping[str, Any]], Mapping[str, Any]] | None:
    """
    Returns a function that removes from a row the nulls that Arrow has added to messages, tools and template
    variables, as TRL's `remove_none_values` does: a key that one message has and another lacks is null in the other. A
    message's own `content: null` is kept, and so is everything in a column of JSON.

    Args:
        features (`datasets.Features`, *optional*): Features of the rows.

    Returns:
        `Callable`, or `None` if the rows have no such column.
    """
    if any(map(holds_json, (features or {}).values())):
        use_exact_json()
    columns = {name: kind for name, kind in (features or {}).items() if _may_have_nulls(name, kind)}
    if not columns:
        return None

    def strip(row: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: _strip(value, columns[name]) if name in columns else value for name, value in row.items()}

    return strip


def _may_have_nulls(name: str, kind: Any) -> bool:
    while hasattr(kind, "feature"):
        kind = kind.feature
    if not isinstance(kind, Mapping):
        return False
    return name in TEMPLATE_COLUMNS or ("role" in kind and not kind.keys() <= PLAIN_FIELDS)


def _strip(value: Any, kind: Any) -> Any:
    if isinstance(value, list) and hasattr(kind, "feature"):
        return [_strip(entry, kind.feature) for entry in value]
    if not isinstance(value, Mapping) or not isinstance(kind, Mapping):
        return value
    own = "content" if "role" in kind else None
    return {name: _strip(entry, kind[name]) for name, entry in value.items() if entry is not None or name == own}


def holds_json(kind: Any) -> bool:
    """Whether `datasets` stores a column as JSON, or as lists of JSON."""
    while hasattr(kind, "feature"):
        kind = kind.feature
    return type(kind).__name__ == "Json"


def decode_json(value: Any, kind: Any) -> Any:
    """Returns the value of a JSON column that was read as strings, without `datasets`; other values as they are."""
    if isinstance(value, list) and hasattr(kind, "feature"):
        return [decode_json(entry, kind.feature) for entry in value]
    return json.loads(value) if isinstance(value, str) and holds_json(kind) else value
