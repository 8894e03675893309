r"""
Prompts and completions: the two kinds of dialogue markers of the original work, and conversion between text and chat
messages.

- `\n\nHuman: …\n\nAssistant: …`: the raw dialogues of Helpful and Harmless.
- `## Human:\n{query}\n\n## Assistant:\n{response}`: the template of DSP, WebGPT and GPT-4-LLM.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .messages import TEMPLATE_COLUMNS, canonical, content_text, extras, is_plain, text_format_problem
from .schema import Message, Text


TEMPLATES = ("human-assistant", "none")
ROLES = {"Human": "user", "Assistant": "assistant"}
MARKERS = {"user": "## Human:\n", "assistant": "## Assistant:\n"}
# A dialogue starts with a marker; `\n\n` precedes every later one.
DIALECTS = (re.compile(r"(?:\A|\n\n)(Human|Assistant):"), re.compile(r"(?:\A|\n\n)## (Human|Assistant):\n"))


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue in a text: `text[start:content]` is its marker, `text[content:end]` its content."""

    role: str
    start: int
    content: int
    end: int


def wrap(query: str, response: str | None = None) -> str:
    """Returns a query in the original's template, with the response if there is one."""
    return f"{MARKERS['user']}{query}\n\n{MARKERS['assistant']}{response or ''}"


def split_turns(text: str) -> list[Turn]:
    """Returns the turns of a marked dialogue; empty if `text` does not start with a marker."""
    for pattern in DIALECTS:
        marks = list(pattern.finditer(text))
        if marks and marks[0].start() == 0:
            ends = [mark.start() for mark in marks[1:]] + [len(text)]
            return [Turn(ROLES[mark[1]], mark.start(), mark.end(), end) for mark, end in zip(marks, ends)]
    return []


def common_prompt(texts: list[str]) -> str:
    """
    Returns the prompt that K whole texts share: always a prefix of each, so that prompt + rest is exactly the text.

    For dialogues, the prompt is their common leading turns and the marker of the assistant's turn where they differ.
    For other texts, it is their longest common prefix, cut back to a line break or, without one, to a space. No
    completion is left empty, unless its text or the assistant's turn in it is.
    """
    dialogues = [split_turns(text) for text in texts]
    if not all(dialogues):
        return _common_prefix(texts)
    first, shared = dialogues[0], 0
    for turns in zip(*dialogues):
        said = {(turn.role, text[turn.start : turn.end]) for turn, text in zip(turns, texts)}
        if len(said) > 1 or shared + 1 >= min(map(len, dialogues)):
            break
        shared += 1
    if shared == 0:
        return ""
    part = [turns[shared] for turns in dialogues]
    # The marker is part of the prompt if every text continues with the same one: no answer starts with it.
    markers = {text[turn.start : turn.content] for turn, text in zip(part, texts)}
    if len(markers) == 1 and part[0].role == "assistant":
        return texts[0][: part[0].content]
    return texts[0][: first[shared - 1].end]


def _common_prefix(texts: list[str]) -> str:
    prefix = _shared_start(texts)
    if len(prefix) == min(map(len, texts)):
        prefix = prefix[:-1]
    cut = prefix.rfind("\n") + 1 or prefix.rfind(" ") + 1
    return prefix[:cut]


def _shared_start(texts: list[str]) -> str:
    low, high = min(texts), max(texts)  # in sorted order, the first and the last differ earliest
    end = next((n for n, (a, b) in enumerate(zip(low, high)) if a != b), len(low))
    return low[:end]


def text_to_messages(prompt: str, completion: str) -> tuple[list[Message], list[Message]]:
    """
    Splits prompt and completion of a marked dialogue into messages; without markers they are one message each.

    Contents are kept unchanged, except for the one space after `Human:` and `Assistant:`. Two consecutive turns of one
    side (11 of 3,291 published dialogues) become one message, since many chat templates require alternation.
    """
    text = prompt + completion
    turns = split_turns(text)
    if not turns:
        asked = [{"role": "user", "content": prompt}] if prompt else []
        return asked, [{"role": "assistant", "content": completion}]
    messages = [{"role": turn.role, "content": _said(text, turn)} for turn in turns]
    asked = sum(turn.end <= len(prompt) and turn.content < len(prompt) for turn in turns)
    return _alternate(messages[:asked]), _alternate(messages[asked:])


def _alternate(messages: list[Message]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**message, "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _said(text: str, turn: Turn) -> str:
    content = text[turn.content : turn.end]
    return content.removeprefix(" ") if not text[turn.start : turn.content].endswith("\n") else content


def messages_to_text(prompt: list[Message], completion: list[Message]) -> tuple[str, str]:
    """
    Returns prompt and completion as text in the template `## Human:` / `## Assistant:`, any number of turns.

    Raises:
        `InputError`: if a message has more than role and content.
    """
    problem = text_format_problem([*prompt, *completion])
    if problem:
        raise InputError(f"{problem} Use a chat model and the format chat.")
    before = "\n\n".join(_marked(message) for message in prompt)
    after = "\n\n".join(_marked(message) for message in completion)
    if before:
        before += "\n\n"
    if completion and completion[0]["role"] == "assistant":
        return before + MARKERS["assistant"], after.removeprefix(MARKERS["assistant"])
    return before, after


def convert_row(prompt: Text, completions: list[Text], data_format: str) -> tuple[Text, list[Text]]:
    """
    Returns a row's prompt and completions in the other format: text as messages, or messages as text.

    Args:
        prompt, completions (`str` or list of messages): Columns of the row.
        data_format (`str`): The wanted format, `text` or `chat`.

    Raises:
        `InputError`: if a message that becomes text has more than role and content.
    """
    convert = messages_to_text if data_format == "text" else text_to_messages
    split = [convert(prompt, completion) for completion in completions]
    starts = [start for start, _ in split]
    if data_format == "text" and len(set(starts)) > 1:  # one begins with an answer, another with a user turn
        start = _shared_start(starts)
        return start, ["".join(both).removeprefix(start) for both in split]
    return starts[0], [answer for _, answer in split]


def refuse_template_columns(row: Mapping[str, Any]) -> None:
    """Raises an `InputError` if a row has tools or variables for a chat template, which a text cannot express."""
    problem = text_format_problem([], *(row.get(name) for name in TEMPLATE_COLUMNS))
    if problem:
        raise InputError(f"{problem} Use a chat model and the format chat, or remove the column.")


def _marked(message: Message) -> str:
    role, content = message["role"], message["content"]
    if role == "system":
        return content
    return MARKERS.get(role, f"## {role.capitalize()}:\n") + content


def common_messages(dialogues: list[list[Message]]) -> int:
    """Returns how many leading messages K dialogues share, leaving at least one message to each."""
    shared = 0
    for messages in zip(*dialogues):
        if any(message != messages[0] for message in messages) or shared + 1 >= min(map(len, dialogues)):
            break
        shared += 1
    return shared


def arrange(
    prompt: Text | None, completions: list[Text], format: str, template: str, system: str | None = None
) -> tuple[Text, list[Text]]:
    """
    Converts a prompt and its completions, from any form of a source, to the wanted format.

    Args:
        prompt (`str`, list of messages, *optional*): `None` if every completion begins with it.
        completions (list of K `str` or message lists): The responses, or whole dialogues.
        format (`str`): `text` or `chat`.
        template (`str`): `human-assistant` or `none`; text put around a plain-text prompt in the text format.
        system (`str`, *optional*): Put before the prompt, as a system message or as a separate paragraph.

    Returns:
        `(prompt, completions)`: strings for `text`, lists of messages for `chat`.
    """
    if system:
        asked, answers = arrange(prompt, completions, format, template)
        return [{"role": "system", "content": system}, *asked] if format == "chat" else f"{system}\n\n{asked}", answers
    if isinstance(prompt, list) or any(isinstance(completion, list) for completion in completions):
        asked, answers = arrange_messages(prompt, completions)
        if format == "chat":
            return asked, answers
        return convert_row(asked, answers, format)
    if prompt is None:
        prompt = common_prompt(completions)
        completions = [text[len(prompt) :] for text in completions]
    elif format == "text" and template == "human-assistant":
        prompt = wrap(prompt)
    if format == "text":
        return prompt, completions
    return convert_row(prompt, completions, format)


def arrange_messages(prompt: Text | None, completions: list[Text]) -> tuple[list[Message], list[list[Message]]]:
    """
    Returns prompt and completions as messages, if some of them are strings or all completions contain the prompt.

    Args:
        prompt (`str`, list of messages, *optional*): `None` if every completion begins with it.
        completions (list of K `str` or message lists): A string is an assistant's turn.
    """
    dialogues = [[{"role": "assistant", "content": text}] if isinstance(text, str) else text for text in completions]
    # TRL's rule: a plain-text prompt next to chat dialogues repeats the beginning of the dialogues.
    repeated = isinstance(prompt, str) and all(turns[0]["role"] != "assistant" for turns in dialogues)
    if prompt is None or repeated:
        shared = common_messages(dialogues)
        return dialogues[0][:shared], [turns[shared:] for turns in dialogues]
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}], dialogues
    if all(turns[: len(prompt)] == prompt and len(turns) > len(prompt) for turns in dialogues):
        dialogues = [turns[len(prompt) :] for turns in dialogues]
    return prompt, dialogues


def normalize(text: Text) -> str:
    """
    Returns the text with every run of white space collapsed to one space; the messages of a chat are joined, with
    their roles. A message with more than role and content is the canonical JSON of all its fields.
    """
    if isinstance(text, str):
        return " ".join(text.split())
    return "\n".join(
        f"{message['role']}: {' '.join(message['content'].split())}" if is_plain([message]) else _all_fields(message)
        for message in text
    )


def _all_fields(message: Message) -> str:
    said = {name: value for name, value in message.items() if value is not None or name == "content"}
    if isinstance(said.get("content"), str):
        said["content"] = " ".join(said["content"].split())
    return "\0" + canonical(said)  # JSON itself has no such character


def prompt_digest(
    prompt: Text, completions: list[Text], tools: Any = None, chat_template_kwargs: dict[str, Any] | None = None
) -> str:
    """
    Returns the `prompt_id`: 16 hex digits over the white-space-normalized prompt, without its markers.

    The same question has the same id as plain text, in either dialogue form and as chat. A row without a prompt counts
    as a separate prompt: its id comes from the completions. Other fields of messages, tools and template variables are
    part of the prompt, if present.
    """
    turns = split_turns(prompt) if isinstance(prompt, str) else []
    if turns:
        said = [" ".join(prompt[turn.content : turn.end].split()) for turn in turns]
    elif isinstance(prompt, str):
        said = [normalize(prompt)]
    else:
        said = [" ".join(content_text(message).split()) + extras(message) for message in prompt]
    content = "\n".join(part for part in said if part)
    if not content:
        content = "\0".join(sorted(normalize(completion) for completion in completions))
    template = {name: value for name, value in zip(TEMPLATE_COLUMNS, (tools, chat_template_kwargs)) if value}
    if template:
        content += "\0" + canonical(template)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:16]
