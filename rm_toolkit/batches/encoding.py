"""Texts -> token ids: in batches, cut on the left, with counts of what was cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .rendering import render


BATCH_SIZE = 1024


def encode(
    texts: Sequence[tuple[Any, ...]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    data_format: str,
    name: str,
    show_progress: bool,
    *,
    find_completions: bool = True,
    merge_within: Sequence[int] | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """
    Token ids of all texts. The backend is called directly: it encodes a batch in parallel and builds no masks.

    Args:
        texts (`list[tuple]`): (prompt, completion), strings or message lists, or a whole
            [`~rm_toolkit.data.messages.Conversation`].
        tokenizer, max_length, data_format, name, show_progress: As in
            [`~rm_toolkit.batches.tokenization.tokenize_preferences`].
        find_completions (`bool`): Whether to find where each completion begins, which needs character offsets.
        merge_within (`Sequence[int]`, *optional*): Group of each text: texts of one group with the same ids become one
            sequence. Default: each text is a sequence of its own.

    Returns:
        `tuple`: `ids`, `offsets`, `completion_start` and counts of what was cut; and `np.ndarray` of shape
        `(len(texts),)`, the sequence of each text.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    num_prefix = _num_special(tokenizer, data_format)
    pieces, lengths, starts = [], [], []
    seen: dict[tuple[int, bytes], int] = {}
    numbers = np.arange(len(texts), dtype=np.int64)
    num_truncated = num_truncated_tokens = 0
    progress = tqdm(
        total=len(texts), desc=f"Tokenizing {name}", unit="text", disable=not show_progress, leave=False, delay=2
    )
    for begin in range(0, len(texts), BATCH_SIZE):
        batch = texts[begin : begin + BATCH_SIZE]
        strings, prompt_lengths = render(batch, tokenizer, data_format)
        run = backend.encode_batch if find_completions else backend.encode_batch_fast
        encodings = run(strings, add_special_tokens=data_format == "text")
        for number, (encoding, prompt_length) in enumerate(zip(encodings, prompt_lengths), begin):
            ids = encoding.ids
            start = _first_token_at(encoding, prompt_length) if find_completions else 0
            cut = max(0, len(ids) - max_length)
            ids = ids[:num_prefix] + ids[num_prefix + cut :] if cut else ids
            piece = np.array(ids, dtype=np.int32)
            if merge_within is not None:
                numbers[number] = seen.setdefault((merge_within[number], piece.tobytes()), len(pieces))
                if numbers[number] < len(pieces):
                    continue
            if cut:
                num_truncated += 1
                num_truncated_tokens += cut
                start = max(num_prefix, start - cut)
            pieces.append(piece)
            lengths.append(len(ids))
            starts.append(min(start, len(ids)) if find_completions else 0)
        progress.update(len(batch))
    progress.close()
    encoded = {
        "ids": np.concatenate(pieces) if pieces else np.zeros(0, np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        "completion_start": np.array(starts, dtype=np.int32),
        "num_truncated": num_truncated,
        "num_truncated_tokens": num_truncated_tokens,
    }
    return encoded, numbers


def _num_special(tokenizer: PreTrainedTokenizerBase, data_format: str) -> int:
    """How many special tokens the tokenizer puts before a text; truncation keeps them."""
    if data_format == "chat":  # a template's BOS is text to the saved tokenizer, which cuts it with the rest
        return 0
    return tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"].index(0)


def _first_token_at(encoding: Any, position: int) -> int:
    """Index of the first token that ends after character `position` and is not special."""
    low, high = 0, len(encoding.ids)
    offsets, special = encoding.offsets, encoding.special_tokens_mask
    while low < high and special[low]:
        low += 1
    while low < high:
        middle = (low + high) // 2
        if special[middle] or offsets[middle][1] > position:
            high = middle
        else:
            low = middle + 1
    return low
