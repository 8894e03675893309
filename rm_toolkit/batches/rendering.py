"""Texts -> the strings that a model reads: prompt + completion, or messages through the tokenizer's chat template."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..data.messages import Conversation, canonical, extra_fields
from ..errors import InputError
from .template_limits import TemplateLimitError


logger = logging.getLogger(__name__)

# Exceptions of a template: its own refusal, or an operation on a value of a type that it was not written for.
TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip
PROMPT_ALONE = {"add_generation_prompt": True, "continue_final_message": False}
# Number of texts with which to test whether the template renders a field.
TRIED_TEXTS = 8
PARTIAL_PROMPTS = "partial prompts"  # key of a warning that a stream gives only once


class RefusedText(InputError):
    """
    A text that the chat template does not render.

    Args:
        problem (`str`): The template's message, a sentence.
        number (`int`): Index of the text.
    """

    def __init__(self, problem: str, number: int):
        super().__init__(problem)
        self.number = number


def render(
    batch: Sequence[tuple[Any, ...]], tokenizer: PreTrainedTokenizerBase, data_format: str
) -> tuple[list[str], list[int]]:
    """
    Returns the string that the model reads for each text, and the length of its prompt in characters.

    Text is prompt and completion in one; messages go through the tokenizer's chat template, with all their fields and
    with the tools and variables of their row, exactly as TRL renders them. If the rendered prompt is not a prefix of
    the rendered text (templates of reasoning models take thoughts out of it), what both begin with is the prompt.

    Args:
        batch (`Sequence[tuple]`): (prompt, completion), or a complete [`~rm_toolkit.data.messages.Conversation`].
        tokenizer (`PreTrainedTokenizerBase`): Has the chat template.
        data_format (`str`): `"text"` or `"chat"`.

    Raises:
        `RefusedText`: with the template's message, if it cannot render one of them.
    """
    strings, lengths, _ = render_prompts(batch, tokenizer, data_format)
    return strings, lengths


def render_prompts(
    batch: Sequence[tuple[Any, ...]], tokenizer: PreTrainedTokenizerBase, data_format: str
) -> tuple[list[str], list[int], list[bool]]:
    """As [`render`], and whether each rendered prompt is a prefix of its text."""
    if data_format == "text":
        return [text[0] + text[1] for text in batch], [len(text[0]) for text in batch], [True] * len(batch)
    strings = render_whole(batch, tokenizer, data_format)
    texts = [Conversation(*text) for text in batch]
    rendered: dict[tuple[int, ...], str | None] = {}  # the responses of a row share a prompt
    starts = []
    for text in texts:
        key = (id(text.prompt), id(text.tools), id(text.chat_template_kwargs))
        if key not in rendered:
            rendered[key] = _rendered_prompt(text, tokenizer)
        starts.append(rendered[key])
    whole = [start is not None and string.startswith(start) for string, start in zip(strings, starts)]
    parts = zip(strings, starts, whole)
    lengths = [len(start) if is_whole else _common_length(string, start or "") for string, start, is_whole in parts]
    return strings, lengths, whole


def _common_length(one: str, other: str) -> int:
    pairs = zip(one, other)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def render_whole(batch: Sequence[tuple[Any, ...]], tokenizer: PreTrainedTokenizerBase, data_format: str) -> list[str]:
    """Returns only the strings of [`render`], at half the cost, because prompts are not rendered alone."""
    if data_format == "text":
        return [text[0] + text[1] for text in batch]
    texts = [Conversation(*text) for text in batch]
    strings: list[str] = [""] * len(texts)
    for members in _by_options(texts):
        options = _options(texts[members[0]])
        whole = [list(texts[k].prompt) + list(texts[k].completion) for k in members]
        for k, string in zip(members, _apply(tokenizer, whole, options, members)):
            strings[k] = string
            _check_parts(texts[k], string, k)
    return strings


def _rendered_prompt(text: Conversation, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """`None` for a prompt that the template refuses without its completion, as some do without an assistant turn."""
    if not text.prompt:
        return ""
    try:
        return _apply(tokenizer, [text.prompt], {**_options(text), **PROMPT_ALONE}, [0])[0]
    except RefusedText:
        return None


def _by_options(texts: list[Conversation]) -> Iterable[list[int]]:
    """Indices of the texts, grouped by tools and variables."""
    groups: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        plain = text.tools is None and not text.chat_template_kwargs
        groups.setdefault("" if plain else canonical(_options(text)), []).append(number)
    return groups.values()


def _options(text: Conversation) -> dict[str, Any]:
    options = dict(text.chat_template_kwargs or {})
    return options if text.tools is None else {"tools": text.tools, **options}


def _apply(
    tokenizer: PreTrainedTokenizerBase, conversations: list[Any], options: dict[str, Any], numbers: Sequence[int]
) -> list[str]:
    try:
        strings = tokenizer.apply_chat_template(conversations, tokenize=False, **options)
    except TemplateLimitError:
        raise
    except TEMPLATE_ERRORS as error:
        if len(conversations) > 1:  # find the refused one
            for conversation, number in zip(conversations, numbers):
                _apply(tokenizer, [conversation], options, [number])
        raise RefusedText(
            f"the tokenizer's chat template refuses some of the messages: {str(error).rstrip('.')}. Change the data (its "
            "roles, their order, a content that is null) or leave such rows out (`skip_invalid`), give a tokenizer with "
            "another template, or build the data with --format text.",
            numbers[0],
        ) from error
    nothing = next((k for k, string in enumerate(strings) if not string and conversations[k]), None)
    if nothing is not None:
        raise RefusedText(
            "the tokenizer's chat template renders some of the messages as an empty text: the model would have no "
            "token to read. Restore `chat_template.jinja`, or give a tokenizer with another template.",
            numbers[nothing],
        )
    return strings


def _check_parts(text: Conversation, string: str, number: int) -> None:
    """Refuses a template that prints a list of parts as a Python list, which is useless for training."""
    for message in text.messages:
        content = message.get("content")
        if isinstance(content, list) and (
            str(content) in string or not all(part["text"].strip() in string for part in content)
        ):
            raise RefusedText(
                "the tokenizer's chat template does not render content that is a list of parts. Give the content as a "
                "string, or a tokenizer whose template reads parts.",
                number,
            )


def report_partial_prompts(name: str, num_rows: int, checked: set[str] | None = None) -> None:
    """
    Warns of rows whose rendered prompt is not a prefix of the rendered row.

    Args:
        name (`str`): Name of the dataset.
        num_rows (`int`): Number of such rows.
        checked (`set[str]`, *optional*): Warnings given before, for a stream read in blocks; updated in place.
    """
    checked = set() if checked is None else checked
    if num_rows and PARTIAL_PROMPTS not in checked:
        checked.add(PARTIAL_PROMPTS)
        logger.warning(
            "dataset '%s': the chat template renders the prompt of %d rows differently when the answer follows; "
            "their common "
            "prefix counts as the prompt, and the rest as the response.",
            name,
            num_rows,
        )


def report_unread(
    texts: Iterable[Conversation], tokenizer: PreTrainedTokenizerBase, name: str, checked: set[str] | None = None
) -> None:
    """
    Warns of message fields, tools and variables that the chat template does not render.

    Args:
        texts (`Iterable[Conversation]`): Those that are not plain.
        tokenizer (`PreTrainedTokenizerBase`): Has the chat template.
        name (`str`): Name of the dataset, for the warning.
        checked (`set[str]`, *optional*): Fields that were checked before; updated in place.
    """
    checked = set() if checked is None else checked
    having: dict[str, list[Conversation]] = {}
    for text in texts:
        for part in _parts(text):
            having.setdefault(part, []).append(text)
    for part, found in having.items():
        if part in checked:
            continue
        checked.add(part)
        if not any(_changes(text, part, tokenizer) for text in islice(found, TRIED_TEXTS)):
            logger.warning(
                "%s: the chat template does not render %s, which %d texts have; texts that differ only there are equal "
                "to the model. Use a tokenizer whose template renders it, or write it into the content.",
                name,
                part,
                len(found),
            )


def _parts(text: Conversation) -> Iterator[str]:
    yield from (f"`{field}` of the messages" for field in extra_fields(text.messages))
    if text.tools:
        yield "the column `tools`"
    yield from (f"`{variable}` of `chat_template_kwargs`" for variable in text.chat_template_kwargs or ())


def _changes(text: Conversation, part: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the rendered text changes without the part."""
    field = part.split("`")[1]
    prompt, completion, tools, kwargs = text
    if part.startswith("the column"):
        tools = None
    elif part.endswith("`chat_template_kwargs`"):
        kwargs = {name: value for name, value in (kwargs or {}).items() if name != field}
    else:
        prompt, completion = (
            [{name: value for name, value in message.items() if name != field} for message in messages]
            for messages in (prompt, completion)
        )
    try:
        without = render_whole([Conversation(prompt, completion, tools, kwargs)], tokenizer, "chat")
        return without != render_whole([text], tokenizer, "chat")
    except RefusedText:  # the template needs it, or refuses the text, which is reported when it is encoded
        return True
