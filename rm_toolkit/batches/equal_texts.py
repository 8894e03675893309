"""Texts that differ in what was written and are one to the model: their token ids are the same."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.messages import Conversation
from .rendering import report_unread
from .unpaired import AFTER, PROMPT, renumbered


logger = logging.getLogger(__name__)

PAIR_COLUMNS = ("better", "worse", "row", "prompt", "margin", "lm_better", "lm_worse")

EQUAL_PAIRS = "equal pairs"  # among the things that were said of a stream


def have_more_than_content(
    texts: Iterable[Conversation], tokenizer: PreTrainedTokenizerBase, name: str, checked: set[str] | None = None
) -> bool:
    """
    Returns whether any text is more than roles and contents. What of that the chat template does not render is said.

    Args:
        texts, tokenizer, name, checked: As in [`~rm_toolkit.batches.rendering.report_unread`].
    """
    more = [text for text in texts if isinstance(text.completion, list) and not text.is_plain]
    if more:
        report_unread(more, tokenizer, name, checked)
    return bool(more)


def merge_pairs(columns: dict[str, Any], sequences: np.ndarray, keep_equal: bool) -> dict[str, Any]:
    """
    Renumbers pairs of texts as pairs of sequences, where several texts are one sequence.

    Args:
        columns (`dict[str, Any]`): The pair columns of `TokenizedPreferences`, their texts numbered.
        sequences (`np.ndarray` of shape `(num_texts,)`): The sequence of each text.
        keep_equal (`bool`): Whether pairs whose two texts have become one stay: evaluation counts them as ties, training
            has nothing to learn from them.

    Returns:
        `dict[str, Any]`: The columns, and `num_equal_pairs`.
    """
    columns = dict(columns)
    apart = columns["better"] != columns["worse"]
    for name in ("better", "worse", "first_two"):
        columns[name] = sequences[columns[name]].astype(np.int32)
    unpaired = columns["unpaired"] = columns["unpaired"].copy()
    unpaired[:, :PROMPT] = sequences[unpaired[:, :PROMPT]]
    equal = apart & (columns["better"] == columns["worse"])
    columns["num_equal_pairs"] = int(equal.sum())
    if not keep_equal and equal.any():
        for name in PAIR_COLUMNS:
            columns[name] = None if columns[name] is None else columns[name][~equal]
        unpaired[:, AFTER] = renumbered(unpaired[:, AFTER], ~equal)
        columns["tied_rows"] = renumbered(columns["tied_rows"], ~equal)
    return columns


def report_equal_pairs(name: str, num_equal: int, keep_equal: bool, checked: set[str] | None = None) -> None:
    """
    Warns of pairs whose two texts are one to the model.

    Args:
        name (`str`): Name of the data set.
        num_equal (`int`): Number of them.
        keep_equal (`bool`): As in [`merge_pairs`].
        checked (`set[str]`, *optional*): What was said before, of a stream that comes in blocks; it grows.
    """
    checked = set() if checked is None else checked
    if num_equal and EQUAL_PAIRS not in checked:
        checked.add(EQUAL_PAIRS)
        logger.warning(
            "data set '%s': %d pairs differ only in what the chat template does not render, or in what was cut: their two "
            "texts have the same token ids. They %s.",
            name,
            num_equal,
            "count as ties" if keep_equal else "are left out of training",
        )
