"""Rows of token ids, as in TRL's reward trainer: used as they are, without rendering or adding tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.id_rows import id_columns, read_id_list
from ..data.pairing import label_scores
from ..data.records import Place
from .encoding import encode_ids
from .equal_texts import AFTER_CUT, AS_IDS, merge_pairs
from .preference_rows import PreferenceRow, as_row, check_columns
from .row_pairs import PairColumns


def row_reader(
    names: Iterable[str], name: str, num_tokens: int, kind: str = "dataset"
) -> Callable[[Mapping[str, Any], Place], PreferenceRow]:
    """
    Returns the function that reads one row of a dataset with these columns: pairs, ranked rows or token ids.

    Args:
        names (`Iterable[str]`): The columns.
        name, kind (`str`): Name of the dataset and what it is called, for the error.
        num_tokens (`int`): Number of tokens of the tokenizer.

    Raises:
        `InputError`: if they are the columns of none of these.
    """
    columns = id_columns(names)
    if columns is not None:
        return partial(id_row, columns=columns, num_tokens=num_tokens)
    ranked = check_columns(names, name, kind)
    return lambda row, place: as_row(row, ranked, place)


def read_ids(
    rows: Iterable[PreferenceRow],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    lm_score_threshold: float,
    keep_equal: bool,
    tied_rows: bool,
) -> dict[str, Any]:
    """
    Reads rows of token ids. The common beginning of the two texts of a pair is their prompt. Texts that are too long are
    cut on the left and keep BOS, like all texts (TRL leaves such rows out).

    Args:
        rows (`Iterable[PreferenceRow]`): From [`id_row`].
        tokenizer, max_length, lm_score_threshold, keep_equal, tied_rows: As in
            [`~rm_toolkit.batches.tokenization.tokenize_preferences`].

    Returns:
        `dict[str, Any]`: Fields of [`~rm_toolkit.batches.tokenization.TokenizedPreferences`].
    """
    columns = PairColumns(tied_rows)
    texts: list[tuple[int, ...]] = []
    for number, row in enumerate(rows):
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
    return encoded | pairs


def id_row(row: Mapping[str, Any], place: Place, columns: tuple[str, str], num_tokens: int) -> PreferenceRow:
    """
    Reads one row of token ids; its texts are tuples of ids.

    Args:
        row (`dict`): With the two columns, and `margin`, `score_chosen`, `score_rejected` or tags where it has them.
        place (`Place`): Place of the row, for the error.
        columns (`tuple[str, str]`): From [`~rm_toolkit.data.id_rows.id_columns`].
        num_tokens (`int`): Number of tokens of the tokenizer.

    Raises:
        `InputError`: for ids outside the tokenizer's vocabulary, or invalid scores.
    """
    texts = [_ids(row[name], name, num_tokens, place) for name in columns]
    scores = label_scores(row.get("score_chosen"), row.get("score_rejected"), place)
    return PreferenceRow("", texts, scores, row.get("prompt_id"), row.get("margin"))


def _ids(value: Any, name: str, num_tokens: int, place: Place) -> tuple[int, ...]:
    ids = read_id_list(value, name, place)
    wrong = next((token for token in ids if not 0 <= token < num_tokens), None)
    if wrong is not None:
        raise place.error(
            f"`{name}` has the token id {wrong}, but the tokenizer has {num_tokens} tokens.",
            "Tokenize with the model's tokenizer.",
        )
    return tuple(ids)


def starts_of(texts: list[tuple[int, ...]], pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """
    Returns where the completion of each sequence begins: after the common beginning of its first pair.

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
    """Returns how many tokens at the beginning truncation keeps: BOS, if the ids begin with it."""
    return int(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
