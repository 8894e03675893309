"""Rows of a preference dataset (pairs or ranked rows) in the form used for tokenization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from ..data.id_rows import id_columns
from ..data.messages import (
    TEMPLATE_COLUMNS,
    Conversation,
    canonical,
    check_parts,
    read_template_kwargs,
    read_tools,
)
from ..data.pairing import RowPairs, label_scores, pair_up, plain, ranked_scores
from ..data.records import Place
from ..data.schema import Text
from ..data.templates import arrange_messages
from ..errors import InputError


OF_TEXT, OF_MESSAGES = 1, 2  # hash seeds: a string is never equal to messages
NO_TEMPLATE_COLUMNS: dict[str, Any] = dict.fromkeys(TEMPLATE_COLUMNS)


@dataclass
class PreferenceRow:
    """
    One row in the form for tokenization.

    Args:
        prompt (`str` or list of messages): Empty if the completions include it.
        completions (list of K `str` or message lists): The responses.
        scores (list of K `float`): Higher is better.
        prompt_key: A key that rows of one prompt share; `None` if the row has no prompt.
        margin (`float`, *optional*): Wanted difference of the rewards, in logits.
        writers (list of K `str`, *optional*): The domain that wrote each response, if one domain is compared with others.
        domain (`str`, *optional*): That domain.
        tools (list of `dict`, *optional*): JSON schemas of the tools that the chat template may list.
        chat_template_kwargs (`dict`, *optional*): More variables of the chat template.
    """

    prompt: Text
    completions: list[Text]
    scores: list[float]
    prompt_key: Any
    margin: float | None
    writers: list[str] | None = None
    domain: str | None = None
    tools: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def pair_up(self) -> RowPairs:
        """Returns the pairs and the ties of the row."""
        return pair_up(self.scores, self.writers, self.domain)


def check_columns(names: Iterable[str], name: str, kind: str = "dataset") -> bool:
    """
    Returns whether rows with these columns are ranked rows; otherwise they are pairs.

    Args:
        names (`Iterable[str]`): The columns.
        name (`str`): Name of the dataset, for the error.
        kind (`str`): What the error calls it.

    Raises:
        `InputError`: if they are neither.
    """
    names = set(names)
    ranked = {"completions", "scores"} <= names
    if not ranked and not {"chosen", "rejected"} <= names:
        if id_columns(names):
            raise InputError(
                f"{kind} '{name}' has token ids, which only training and its test sets can read. Give the "
                "texts: `chosen` and `rejected`."
            )
        raise InputError(
            f"{kind} '{name}' has the columns {sorted(names)}; a preference dataset has `chosen` and `rejected`, or "
            "`completions` and `scores`. Build one with `rm-toolkit build-data`."
        )
    return ranked


def as_row(row: Mapping[str, Any], ranked: bool, place: Place) -> PreferenceRow:
    """
    Reads one row of a preference dataset, for training and evaluation, from a file or a stream.

    Args:
        row (`dict`): Columns of a pair or of a ranked row, with or without `prompt`, `prompt_id` and `margin`.
        ranked (`bool`): Which of the two.
        place (`Place`): Place of the row, for the error.

    Raises:
        `InputError`: if its scores cannot be those of a preference, see [`~rm_toolkit.data.pairing`].
    """
    scores = stated_scores(row, ranked, place)
    completions = plain(row["completions"]) if ranked else [row["chosen"], row["rejected"]]
    prompt = row.get("prompt")
    if prompt is None:
        prompt = [] if isinstance(completions[0], list) else ""
    if type(prompt) is not str or set(map(type, completions)) != {str}:  # only strings need no check
        _refuse_other_kinds(prompt, completions, ranked, place)
        prompt, completions = _in_one_form(prompt, completions)
        _check_parts(prompt, completions, ranked, place)
    template = template_columns(row, place)
    key = row.get("prompt_id") or (text_key(prompt, "", **template) if prompt else None)
    if ranked:
        writers = plain(row.get("completion_domains"))
    else:
        writers = [row.get("domain"), row["rejected_domain"]] if row.get("rejected_domain") else None
    return PreferenceRow(prompt, completions, scores, key, row.get("margin"), writers, row.get("domain"), **template)


def _in_one_form(prompt: Text, completions: list[Text]) -> tuple[Text, list[Text]]:
    """A string next to message lists becomes messages, by the rule of `build-data`."""
    texts = [prompt, *completions] if prompt else completions
    if len({isinstance(text, str) for text in texts}) == 1:
        return prompt, completions
    return arrange_messages(prompt or None, completions)


def _named(prompt: Text, completions: list[Text], ranked: bool) -> Iterable[tuple[str, Text]]:
    names = [f"completions[{k}]" for k in range(len(completions))] if ranked else ["chosen", "rejected"]
    return zip(("prompt", *names), (prompt, *completions))


def _refuse_other_kinds(prompt: Any, completions: list[Any], ranked: bool, place: Place) -> None:
    """A value that is neither a text nor a conversation, mostly null."""
    for name, text in _named(prompt, completions, ranked):
        if not isinstance(text, str | list):
            kind = "null" if text is None else f"a {type(text).__name__}"
            raise place.error(f"`{name}` is {kind}; it must be a string or a list of messages.")


def _check_parts(prompt: Text, completions: list[Text], ranked: bool, place: Place) -> None:
    for name, text in _named(prompt, completions, ranked):
        if isinstance(text, list):
            try:
                check_parts(text)
            except ValueError as error:
                raise place.error(f"`{name}`, {error}.") from error


def stated_scores(row: Mapping[str, Any], ranked: bool, place: Place) -> list[float]:
    """
    Returns the score of each response of a row.

    Args:
        row, ranked, place: As in [`as_row`].

    Raises:
        `InputError`: as in [`as_row`].
    """
    if ranked:
        return ranked_scores(row["completions"], row["scores"], place)
    return label_scores(row.get("score_chosen"), row.get("score_rejected"), place)


def as_margins(margins: Sequence[float | None]) -> np.ndarray | None:
    """
    Returns the margins of all pairs of a dataset, in logits, 0 if a row has none; `None` if no row has any.

    Args:
        margins (`Sequence[float]` of `num_pairs`): `None` for a pair of a row without a margin.
    """
    found = np.array([np.nan if margin is None else margin for margin in margins], dtype=np.float32)
    return None if np.isnan(found).all() else np.nan_to_num(found)


def text_key(prompt: Text, completion: Text, tools: Any = None, chat_template_kwargs: Any = None) -> Any:
    """A key that equal texts share: every field of messages, and what else the template reads."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt + completion
    text = Conversation(prompt, completion, tools, chat_template_kwargs)
    if text.is_plain:
        return tuple((message["role"], message["content"]) for message in text.messages)
    return canonical([text.messages, tools, chat_template_kwargs or {}])


def compact_key(key: Any) -> bytes:
    """A 128-bit hash of a key of [`text_key`] or a `prompt_id`."""
    seed, whole = (OF_TEXT, key) if isinstance(key, str) else (OF_MESSAGES, canonical(key))
    return xxhash.xxh3_128_digest(whole.encode("utf-8", "surrogatepass"), seed)


def template_columns(row: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """
    Returns the `tools` and `chat_template_kwargs` of a row, or `None`.

    Raises:
        `InputError`: if a chat template cannot use them.
    """
    tools, kwargs = map(row.get, TEMPLATE_COLUMNS)
    if tools is None and kwargs is None:
        return NO_TEMPLATE_COLUMNS
    try:
        return {"tools": read_tools(tools), "chat_template_kwargs": read_template_kwargs(kwargs)}
    except ValueError as error:
        raise place.error(f"{error}.", "Correct it, or remove the column.") from error
