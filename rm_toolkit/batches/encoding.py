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
        merge_within (`Sequence[int]`, *optional*): Texts of one number here with the same ids become one
            sequence. Default: each text is a sequence of its own.

    Returns:
        `tuple`: `ids`, `offsets`, `completion_start` and counts of what was cut; and `np.ndarray` of shape
        `(len(texts),)`, the sequence of each text.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    sequences = _Sequences(_num_special(tokenizer, data_format), max_length)
    numbers = np.zeros(len(texts), dtype=np.int64)
    progress = tqdm(
        total=len(texts), desc=f"Tokenizing {name}", unit="text", disable=not show_progress, leave=False, delay=2
    )
    for begin in range(0, len(texts), BATCH_SIZE):
        batch = texts[begin : begin + BATCH_SIZE]
        strings, prompt_lengths = render(batch, tokenizer, data_format)
        run = backend.encode_batch if find_completions else backend.encode_batch_fast
        encodings = run(strings, add_special_tokens=data_format == "text")
        for number, (encoding, prompt_length) in enumerate(zip(encodings, prompt_lengths), begin):
            start = _first_token_at(encoding, prompt_length) if find_completions else None
            key = None if merge_within is None else merge_within[number]
            numbers[number] = sequences.add(encoding.ids, start, key)
        progress.update(len(batch))
    progress.close()
    return sequences.columns(), numbers


class _Sequences:
    """
    The distinct sequences so far, cut on the left, and counts of what was cut.

    Args:
        num_prefix (`int`): Special tokens before a text, which a cut keeps.
        max_length (`int`): Tokens that a sequence may have.
    """

    def __init__(self, num_prefix: int, max_length: int):
        self.num_prefix = num_prefix
        self.max_length = max_length
        self.pieces: list[np.ndarray] = []
        self.starts: list[int] = []
        self.seen: dict[tuple[int, bytes], int] = {}
        self.num_truncated = self.num_truncated_tokens = 0

    def add(self, ids: list[int], start: int | None, key: int | None) -> int:
        """
        Adds a text, unless one of the same key has the same ids already.

        Args:
            ids (`list[int]`): Its token ids.
            start (`int`, *optional*): Where its completion begins, where that is wanted.
            key (`int`, *optional*): Texts of one key with the same ids are one sequence.

        Returns:
            `int`: Number of its sequence.
        """
        cut = max(0, len(ids) - self.max_length)
        piece = np.array(ids[: self.num_prefix] + ids[self.num_prefix + cut :] if cut else ids, dtype=np.int32)
        number = len(self.pieces)
        if key is not None:
            known = self.seen.setdefault((key, piece.tobytes()), number)
            if known < number:
                return known
        if cut:
            self.num_truncated += 1
            self.num_truncated_tokens += cut
            start = None if start is None else max(self.num_prefix, start - cut)
        self.pieces.append(piece)
        self.starts.append(0 if start is None else min(start, len(piece)))
        return number

    def columns(self) -> dict[str, Any]:
        """`ids`, `offsets` and `completion_start` of all sequences, and the two counts."""
        lengths = [len(piece) for piece in self.pieces]
        return {
            "ids": np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int32),
            "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            "completion_start": np.array(self.starts, dtype=np.int32),
            "num_truncated": self.num_truncated,
            "num_truncated_tokens": self.num_truncated_tokens,
        }


def encode_ids(
    texts: Sequence[tuple[int, ...]], starts: Sequence[int], kept: Sequence[int], max_length: int
) -> tuple[dict[str, Any], np.ndarray]:
    """
    Cuts texts that are token ids already; equal ones become one sequence.

    Args:
        texts (`list[tuple[int, ...]]`): Token ids of each.
        starts (`Sequence[int]`): Where the completion of each begins.
        kept (`Sequence[int]`): Tokens at the beginning of each that a cut keeps.
        max_length (`int`): Tokens that a sequence may have.

    Returns:
        `tuple`: As of [`encode`].
    """
    sequences = _Sequences(0, max_length)
    numbers = np.zeros(len(texts), dtype=np.int64)
    for number, (ids, start, keep) in enumerate(zip(texts, starts, kept)):
        sequences.num_prefix = keep
        numbers[number] = sequences.add(list(ids), int(start), 0)
    return sequences.columns(), numbers


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
