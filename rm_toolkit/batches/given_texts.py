"""Texts from a caller -> texts as a model reads them: strings, or the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..data.messages import Conversation, read_template_kwargs, read_tools
from ..data.records import Place
from ..data.schema import Text, text_or_messages
from ..data.templates import text_to_messages
from ..errors import InputError


def is_several(entry: Any) -> bool:
    """Whether a row's completions are a list of responses, and not a single string or list of messages."""
    return isinstance(entry, (list, tuple)) and not (len(entry) and isinstance(entry[0], Mapping))


def as_format(
    prompt: Text, completion: Text, data_format: str, tools: Any = None, chat_template_kwargs: Any = None
) -> Conversation:
    """
    Converts a prompt and a completion to the form that a model reads.

    Args:
        prompt, completion (`str` or list of messages): As given by the user.
        data_format (`str`): `text` or `chat`.
        tools, chat_template_kwargs (*optional*): What else a chat template reads, as TRL's columns.

    Raises:
        `InputError`: for messages if the model reads strings, or messages that no template can read.
    """
    try:
        tools, kwargs = read_tools(tools), read_template_kwargs(chat_template_kwargs)
    except ValueError as error:
        raise InputError(f"{error}. Correct it, or leave it out.") from error
    if data_format == "text":
        if not (isinstance(prompt, str) and isinstance(completion, str)):
            raise InputError(
                "the model reads strings (`data_format` 'text'), but a row has a list of messages. Give prompt and "
                "completion as the strings that it was trained on, or use a chat model."
            )
        if tools or kwargs:
            raise InputError(
                f"the model reads strings (`data_format` 'text'): `{'tools' if tools else 'chat_template_kwargs'}` would "
                "not be read. Remove it from the rows, or use a chat model."
            )
        return Conversation(prompt, completion)
    if isinstance(prompt, str) and isinstance(completion, str):
        asked, answered = text_to_messages(prompt, completion)
    else:
        asked = text_to_messages(prompt, "")[0] if isinstance(prompt, str) else _messages(prompt, "prompt")
        answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        answered = _messages(answer, "completion")
    return Conversation(asked, answered, tools, kwargs)


def _messages(messages: Sequence[Mapping[str, Any]], name: str) -> Any:
    messages = list(messages)
    return text_or_messages(messages, name, _GivenRow("the row", "row", 1)) if messages else messages


class _GivenRow(Place):
    """A row that a caller passed, which is in no file."""

    def error(self, problem: str, remedy: str | None = None) -> InputError:
        """As in [`~rm_toolkit.data.records.Place`]."""
        return InputError(problem if remedy is None else f"{problem} {remedy}".strip())
