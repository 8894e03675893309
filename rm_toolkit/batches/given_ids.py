"""Rows of token ids, as TRL's reward trainer takes them: read as they are, nothing rendered and nothing added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.pairing import label_scores, plain
from ..data.records import Place, RowPlace
from ..data.schema import describe
from .encoding import encode_ids
from .equal_texts import AFTER_CUT, AS_IDS, merge_pairs, warn_of_equal_pairs
from .preference_rows import ID_COLUMNS, OLD_ID_COLUMNS, PreferenceRow
from .row_pairs import PairColumns


if TYPE_CHECKING:
    from datasets import Dataset


def id_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns the two columns of token ids of a data set, None where its rows are texts."""
    names = set(names)
    return next((columns for columns in (ID_COLUMNS, OLD_ID_COLUMNS) if names.issuperset(columns)), None)


def read_ids(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    lm_score_threshold: float,
    name: str,
    keep_equal: bool,
    tied_rows: bool = False,
) -> dict[str, Any]:
    """
    Reads rows of token ids. What the two texts of a pair share at their beginning is their prompt; longer texts are cut on
    the left, BOS stays, as all texts are (TRL leaves such rows out).

    Args:
        dataset (`datasets.Dataset`): With the columns of [`id_columns`].
        tokenizer, max_length, lm_score_threshold, name, keep_equal, tied_rows: As in
            [`~rm_toolkit.batches.tokenization.tokenize_preferences`].

    Returns:
        `dict[str, Any]`: Fields of [`~rm_toolkit.batches.tokenization.TokenizedPreferences`].

    Raises:
        `InputError`: naming the row whose ids or scores cannot be used.
    """
    named = id_columns(dataset.column_names)
    columns = PairColumns(tied_rows)
    texts: list[tuple[int, ...]] = []
    for number, values in enumerate(dataset):
        row = id_row(values, named, len(tokenizer), RowPlace(f"data set '{name}'", "row", number + 1))
        members = range(len(texts), len(texts) + len(row.completions))
        texts += row.completions
        columns.add_row(number, members, row, lm_score_threshold)
    starts = starts_of(texts, zip(columns.better, columns.worse))
    encoded, numbers = encode_ids(texts, starts, [num_kept(ids, tokenizer) for ids in texts], max_length)
    pairs = merge_pairs(
        columns.arrays(),
        encoded,
        numbers,
        lambda one, other: AS_IDS if texts[one] == texts[other] else AFTER_CUT,
        keep_equal,
    )
    warn_of_equal_pairs(name, pairs["equal_pairs"], len(pairs["better"]), keep_equal, tied_rows)
    return encoded | pairs


def id_row(row: Mapping[str, Any], columns: tuple[str, str], num_tokens: int, place: Place) -> PreferenceRow:
    """
    Reads one row of token ids; its texts are tuples of ids.

    Args:
        row (`dict`): With the two columns, and `margin`, `score_chosen`, `score_rejected` or tags where it has them.
        columns (`tuple[str, str]`): From [`id_columns`].
        num_tokens (`int`): Tokens that the tokenizer has.
        place (`Place`): Where the row stands, for the error.

    Raises:
        `InputError`: for ids that are no tokens of the tokenizer, or scores that no preference can have.
    """
    texts = [_ids(row[name], name, num_tokens, place) for name in columns]
    scores = label_scores(row.get("score_chosen"), row.get("score_rejected"), place)
    return PreferenceRow("", texts, scores, row.get("prompt_id"), row.get("margin"))


def _ids(value: Any, name: str, num_tokens: int, place: Place) -> tuple[int, ...]:
    ids = plain(value)
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise place.error(f"`{name}` must be a list of token ids, got {describe(ids)}.")
    wrong = next((token for token in ids if not 0 <= token < num_tokens), None)
    if wrong is not None:
        raise place.error(
            f"`{name}` has the token {wrong}, but the tokenizer has {num_tokens}.",
            "Tokenize with the model's tokenizer.",
        )
    return tuple(ids)


def starts_of(texts: list[tuple[int, ...]], pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """
    Returns where the completion of each sequence begins: behind what the sequences of its first pair share.

    Args:
        texts (list of `tuple[int, ...]`): The sequences.
        pairs (iterable of `(int, int)`): Which of them are compared.

    Returns:
        `np.ndarray` of shape `(len(texts),)`.
    """
    starts = np.full(len(texts), -1, dtype=np.int64)
    for pair in pairs:
        first, second = (texts[number] for number in pair)
        shared = next((n for n, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
        for number in pair:
            if starts[number] < 0:
                starts[number] = shared
    return np.maximum(starts, 0)


def num_kept(ids: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns how many tokens at the beginning a cut keeps: BOS, where the ids begin with it."""
    return int(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
