"""Texts that differ as written but are equal to the model, because their token ids are the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.messages import Conversation
from .prefixes import common_beginnings
from .rendering import render, report_unread
from .unpaired import AFTER, PROMPT, renumbered, side_by_side


logger = logging.getLogger(__name__)

PAIR_COLUMNS = ("better", "worse", "row", "prompt", "margin", "lm_better", "lm_worse")

# Why two texts are equal to the model: the positions of `TokenizedPreferences.equal_pairs`.
CAUSES = ("equal as text", "equal as token ids", "equal after the cut to `max_length`")
REMEDIES = (
    "Check the data, and that the chat template renders the parts in which the answers differ",
    "Check that the tokenizer tells their words apart",
    "Raise `max_length`",
)
AS_TEXT, AS_IDS, AFTER_CUT = range(len(CAUSES))
MANY = 0.1  # share of equal pairs above which a warning is logged

EQUAL_PAIRS = "equal pairs"  # key of this report on a stream


class Texts(Protocol):
    """Texts by index."""

    def __getitem__(self, number: int) -> Conversation: ...


Cause = Callable[[int, int], int]  # indices of two texts whose sequences are equal -> index into `CAUSES`


def have_more_than_content(
    texts: Iterable[Conversation], tokenizer: PreTrainedTokenizerBase, name: str, checked: set[str] | None = None
) -> bool:
    """
    Returns whether any text has more than roles and contents. Reports fields that the chat template does not render.

    Args:
        texts, tokenizer, name, checked: As in [`~rm_toolkit.batches.rendering.report_unread`].
    """
    more = [text for text in texts if isinstance(text.completion, list) and not text.is_plain]
    if more:
        report_unread(more, tokenizer, name, checked)
    return bool(more)


def cause_of_texts(texts: Texts, tokenizer: PreTrainedTokenizerBase, data_format: str) -> Cause:
    """
    Returns a function that finds out why two texts have the same token ids, by rendering and encoding them again.

    Args:
        texts, tokenizer, data_format: As used for encoding.
    """

    def cause(one: int, other: int) -> int:
        if one == other:
            return AS_TEXT
        strings = render([texts[one], texts[other]], tokenizer, data_format)[0]
        if strings[0] == strings[1]:
            return AS_TEXT
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(strings, add_special_tokens=data_format == "text")
        return AS_IDS if encodings[0].ids == encodings[1].ids else AFTER_CUT

    return cause


def merge_pairs(
    columns: dict[str, Any], encoded: dict[str, Any], sequences: np.ndarray, cause: Cause, keep_equal: bool
) -> dict[str, Any]:
    """
    Converts pairs of texts to pairs of sequences, and finds those whose two sequences are equal.

    Args:
        columns (`dict[str, Any]`): The pair columns of `TokenizedPreferences`, with text indices.
        encoded (`dict[str, Any]`): `ids` and `offsets` of the sequences.
        sequences (`np.ndarray` of shape `(num_texts,)`): The sequence of each text.
        cause (`Callable`): Returns why two of the texts are equal.
        keep_equal (`bool`): Whether to keep pairs of equal texts: evaluation counts them as ties, training learns
            nothing from them. A text of a removed pair still counts for the LM loss, in the step of the preceding
            pair.

    Returns:
        `dict[str, Any]`: The columns, and `equal_pairs`.
    """
    columns = dict(columns)
    texts = columns["better"], columns["worse"]
    for name in ("better", "worse", "first_two"):
        columns[name] = sequences[columns[name]].astype(np.int32)
    unpaired = columns["unpaired"] = columns["unpaired"].copy()
    unpaired[:, :PROMPT] = sequences[unpaired[:, :PROMPT]]
    equal = _equal(encoded, columns["better"], columns["worse"])
    causes = [cause(int(texts[0][k]), int(texts[1][k])) for k in np.flatnonzero(equal)]
    columns["equal_pairs"] = np.bincount(np.array(causes, dtype=np.int64), minlength=len(CAUSES))
    columns["worse"] = np.where(equal, columns["better"], columns["worse"])  # one sequence, so one reward
    return columns if keep_equal or not equal.any() else _without(columns, equal)


def _equal(encoded: dict[str, Any], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which pairs of sequences have the same ids."""
    equal = one == other
    lengths = np.diff(encoded["offsets"])
    alike = np.flatnonzero(~equal & (lengths[one] == lengths[other]))
    if len(alike):
        common = common_beginnings(encoded["ids"], encoded["offsets"], one[alike], other[alike])
        equal[alike] = common == lengths[one[alike]]
    return equal


def _without(columns: dict[str, Any], equal: np.ndarray) -> dict[str, Any]:
    """The columns without some pairs; their texts still count for the LM loss if they did before."""
    lines = columns["unpaired"].tolist()
    for k in np.flatnonzero(equal & (columns["lm_better"] | columns["lm_worse"])).tolist():
        lines += side_by_side([int(columns["better"][k])], int(columns["prompt"][k]), k)
    lines.sort(key=lambda line: line[AFTER])  # stable
    unpaired = np.array(lines, dtype=np.int32).reshape(-1, AFTER + 1)
    unpaired[:, AFTER] = renumbered(unpaired[:, AFTER], ~equal)
    kept = {name: None if columns[name] is None else columns[name][~equal] for name in PAIR_COLUMNS}
    return {**columns, **kept, "unpaired": unpaired, "tied_rows": renumbered(columns["tied_rows"], ~equal)}


def describe_equal_pairs(
    name: str, equal_pairs: np.ndarray, num_pairs: int, keep_equal: bool, tied_rows: bool = False
) -> str:
    """
    Returns a line about the number of pairs whose two texts are equal to the model, and why; empty if there are none.

    Args:
        name (`str`): Name of the dataset.
        equal_pairs (`np.ndarray` of shape `(3,)`): Their numbers by cause, see [`CAUSES`].
        num_pairs (`int`): Number of pairs in the encoded dataset.
        keep_equal, tied_rows (`bool`): As they were read: decides what happens to the pairs.
    """
    if not equal_pairs.any():
        return ""
    found = ", ".join(f"{number:,} {cause}" for number, cause in zip(equal_pairs.tolist(), CAUSES) if number)
    what = "count as ties"
    if not keep_equal:
        what, num_pairs = "are left out of training", num_pairs + int(equal_pairs.sum())
    elif tied_rows:
        what = "have no gradient but stay in the mean of their rows"
    return (
        f"dataset '{name}': {equal_pairs.sum():,} of {num_pairs:,} pairs have two texts that are equal to the model "
        f"({found}); they {what}"
    )


def are_many(equal_pairs: np.ndarray, num_pairs: int, keep_equal: bool) -> bool:
    """Whether more than a tenth of the pairs have two equal texts; arguments as in [`describe_equal_pairs`]."""
    num_equal = int(equal_pairs.sum())
    return num_equal > MANY * (num_pairs if keep_equal else num_pairs + num_equal)


def warn_of_equal_pairs(
    name: str,
    equal_pairs: np.ndarray,
    num_pairs: int,
    keep_equal: bool,
    tied_rows: bool = False,
    checked: set[str] | None = None,
) -> None:
    """
    Warns of a dataset in which more than a tenth of the pairs has two equal texts.

    Args:
        name, equal_pairs, num_pairs, keep_equal, tied_rows: As in [`describe_equal_pairs`].
        checked (`set[str]`, *optional*): Earlier reports on a stream, which is read in blocks; extended in place.
    """
    checked = set() if checked is None else checked
    if are_many(equal_pairs, num_pairs, keep_equal) and EQUAL_PAIRS not in checked:
        checked.add(EQUAL_PAIRS)
        logger.warning(
            "%s. %s.",
            describe_equal_pairs(name, equal_pairs, num_pairs, keep_equal, tied_rows),
            ". ".join(remedy for remedy, number in zip(REMEDIES, equal_pairs.tolist()) if number),
        )
