"""Rows that a chat template refuses: named by file and line, or left out and counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.messages import Conversation, null_stripper
from ..data.mixture import find_rows
from ..data.records import Place, RowPlace
from ..data.specs import DatasetSpec
from ..errors import InputError
from .preference_rows import as_row, check_columns
from .rendering import RefusedText, render_whole


if TYPE_CHECKING:
    from datasets import Dataset


class RefusedRow(InputError):
    """
    A row of a dataset that the chat template does not render.

    Args:
        name (`str`): Name of the dataset.
        row (`int`): Index of the row, from 0.
        problem (`str`): The template's message, and what to do.
        tokenizer (`PreTrainedTokenizerBase`): Has the template.
    """

    def __init__(self, name: str, row: int, problem: str, tokenizer: PreTrainedTokenizerBase):
        super().__init__(str(RowPlace(f"dataset '{name}'", "row", row + 1).error(problem, "")))
        self.name, self.row, self.problem, self.tokenizer = name, row, problem, tokenizer


@contextlib.contextmanager
def refused_rows(name: str, first_row: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Context in which the error for a refused text names the first row with this text."""
    try:
        yield
    except RefusedText as error:
        raise RefusedRow(name, first_row[error.number], str(error), tokenizer) from error


def refusal(row: dict[str, Any], ranked: bool, place: Place, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """
    Returns the chat template's message about a row that it refuses; `None` for a row that it renders.

    Args:
        row (`dict`): Columns of a pair or of a ranked row of a chat.
        ranked (`bool`): Which of the two.
        place (`Place`): Its place, for the errors of rows that cannot be read at all.
        tokenizer (`PreTrainedTokenizerBase`): Has the template.
    """
    read = as_row(row, ranked, place)
    try:
        for completion in read.completions:
            text = Conversation(read.prompt, completion, read.tools, read.chat_template_kwargs)
            render_whole([text], tokenizer, "chat")
    except RefusedText as error:
        return str(error)
    return None


def clean_rows(dataset: Dataset) -> Iterator[Mapping[str, Any]]:
    """The rows of a dataset without the nulls that Arrow adds."""
    return map(null_stripper(dataset.features) or dict, dataset)


def without_refused(
    dataset: Dataset, tokenizers: Sequence[PreTrainedTokenizerBase], name: str
) -> tuple[Dataset, list[str]]:
    """
    Returns the rows of a chat dataset that all chat templates render, and the message for each of the others.

    Args:
        dataset (`datasets.Dataset`): Pairs or ranked rows.
        tokenizers (`Sequence[PreTrainedTokenizerBase]`): Have the templates.
        name (`str`): Name of the dataset, for the errors.

    Raises:
        `InputError`: if no row is left.
    """
    ranked = check_columns(dataset.column_names, name)
    refused: dict[int, str] = {}
    for number, row in enumerate(clean_rows(dataset)):
        place = RowPlace(f"dataset '{name}'", "row", number + 1)
        said = (refusal(row, ranked, place, tokenizer) for tokenizer in tokenizers)
        problem = next((one for one in said if one is not None), None)
        if problem is not None:
            refused[number] = str(place.error(problem, ""))
    if refused and len(refused) == len(dataset):
        raise InputError(f"none of the {len(dataset)} rows can be used. The first: {refused[0]}")
    if not refused:
        return dataset, []
    return dataset.select(np.setdiff1d(np.arange(len(dataset)), list(refused))), list(refused.values())


def locate(spec: DatasetSpec, split: str, tokenizer: PreTrainedTokenizerBase) -> InputError | None:
    """
    Returns an error that names the first row of a dataset that the chat template refuses, by file and line; `None` if it
    refuses none.

    Args:
        spec (`DatasetSpec`): Location of the dataset.
        split (`str`): Split to use if the spec does not name one.
        tokenizer (`PreTrainedTokenizerBase`): Has the template.
    """
    return first_refused(find_rows(spec, split, format="chat"), tokenizer)


def first_refused(rows: Iterable[tuple[Place, Any]], tokenizer: PreTrainedTokenizerBase) -> InputError | None:
    """As [`locate`], for rows with their places."""
    for place, row in rows:
        try:
            problem = refusal(row, "completions" in row, place, tokenizer)
        except InputError:  # a row that cannot be read at all is not the one searched for
            continue
        if problem is not None:
            return place.error(problem, "")
    return None
