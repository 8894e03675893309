"""Texts of a test set that are longer than the model's maximum length."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..batches.scored_texts import tokenize_texts
from ..models.settings import RewardModelSettings
from .preferences import PreferencePairs


def find_cut(
    table: PreferencePairs, tokenizer: PreTrainedTokenizerBase, settings: RewardModelSettings
) -> tuple[int, np.ndarray]:
    """
    Finds the texts that lose their beginning. A scorer does not count them; tokenizing again is cheap beside scoring.

    Args:
        table (`PreferencePairs`): The test set as the model reads it.
        tokenizer, settings: Those of the model.

    Returns:
        `tuple`: How many distinct sequences are cut, and `np.ndarray` of shape `(num_texts,)`: whether each text is.
    """
    texts, length = table.texts, settings.max_length
    data, numbers = tokenize_texts(texts, tokenizer, max_length=length, data_format=settings.data_format)
    cut = np.zeros(len(texts), dtype=bool)
    full = np.flatnonzero(data.lengths[numbers] == length)  # cut, or exactly at the maximum length
    if data.num_truncated:
        some = [texts[k] for k in full]
        longer, own = tokenize_texts(some, tokenizer, max_length=length + 1, data_format=settings.data_format)
        cut[full] = longer.lengths[own] > length
    return data.num_truncated, cut
