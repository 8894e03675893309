"""Texts without preferences -> token ids, for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.messages import Conversation
from .distinct_texts import check_format
from .encoding import encode
from .equal_texts import have_more_than_content
from .preference_rows import text_key
from .rendering import RefusedText
from .tokenization import TokenizedPreferences


def tokenize_texts(
    texts: Sequence[tuple[Any, ...]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    data_format: str = "text",
    name: str = "texts",
    show_progress: bool = False,
    adapters: Sequence[int] | None = None,
    checked: set[str] | None = None,
) -> tuple[TokenizedPreferences, np.ndarray]:
    """
    Turns (prompt, completion) texts without preferences into token ids, for scoring.

    Args:
        texts (`Sequence[tuple]`): Strings or message lists, or a complete [`~rm_toolkit.data.messages.Conversation`];
            duplicates are encoded once.
        tokenizer, max_length, data_format, name, show_progress: As in
            [`~rm_toolkit.batches.tokenization.tokenize_preferences`].
        adapters (`Sequence[int]`, *optional*): Adapter of each text; equal texts with different adapters are two
            sequences.
        checked (`set[str]`, *optional*): Fields already checked for whether the chat template renders them.

    Returns:
        `tuple`: The distinct sequences, and `np.ndarray` of shape `(len(texts),)`: the sequence index of each text.

    Raises:
        `RefusedText`: if the chat template refuses a text.
    """
    index: dict[Any, int] = {}
    conversations = [Conversation(*text) for text in texts]
    keys = (text_key(*text) for text in conversations)
    numbers = [index.setdefault(key, len(index)) for key in (keys if adapters is None else zip(keys, adapters))]
    distinct: list[Any] = [None] * len(index)
    for number, text in zip(numbers, conversations):
        distinct[number] = text
    if distinct:
        check_format(distinct[0], data_format, name)
    have_more_than_content(distinct, tokenizer, name, checked)  # warns of fields that are not rendered
    merge_within = [0] * len(distinct)  # two texts with equal ids are one and have one reward
    for number, adapter in zip(numbers, adapters or ()):
        merge_within[number] = adapter
    options = {"find_completions": False, "merge_within": merge_within}
    try:
        encoded, sequences = encode(distinct, tokenizer, max_length, data_format, name, show_progress, **options)
    except RefusedText as error:
        raise RefusedText(str(error), numbers.index(error.number)) from error
    numbers = sequences[np.array(numbers, dtype=np.int64)]
    data = TokenizedPreferences.without_pairs(name, **encoded)
    if adapters is not None:
        data.adapter = np.zeros(data.num_sequences, dtype=np.int64)
        data.adapter[numbers] = adapters
    return data, numbers
