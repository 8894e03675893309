"""Texts -> token ids: in batches, cut on the left, with counts of what was cut."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .rendering import RefusedText, render_prompts, render_whole
from .token_spool import TokenSpool


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

    Raises:
        `RefusedText`: if the chat template refuses a text.

    Returns:
        `tuple`: `ids`, `offsets`, `completion_start` and counts of what was cut; and `np.ndarray` of shape
        `(len(texts),)`, the sequence of each text.
    """
    encoder = Encoder(tokenizer, max_length, data_format, find_completions=find_completions)
    progress = tqdm(
        total=len(texts), desc=f"Tokenizing {name}", unit="text", disable=not show_progress, leave=False, delay=2
    )
    numbers: list[int] = []
    for begin in range(0, len(texts), BATCH_SIZE):
        batch = texts[begin : begin + BATCH_SIZE]
        keys = [None] * len(batch) if merge_within is None else merge_within[begin : begin + len(batch)]
        numbers += encoder.add(batch, keys)
        progress.update(len(batch))
    progress.close()
    return encoder.sequences.columns(), np.array(numbers, dtype=np.int64)


class Encoder:
    """
    Turns texts into sequences, batch by batch.

    Args:
        tokenizer, max_length, data_format, find_completions: As in [`encode`].
        folder (`Path`, *optional*): Where the ids of a large data set go until they are taken.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        data_format: str,
        *,
        find_completions: bool = True,
        folder: Path | None = None,
    ):
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        self.tokenizer, self.data_format, self.find_completions = tokenizer, data_format, find_completions
        self.encode_batch = backend.encode_batch if find_completions else backend.encode_batch_fast
        self.sequences = Sequences(_num_special(tokenizer, data_format), max_length, folder)
        self.partial: list[int] = []  # numbers of the texts whose rendered prompt is no prefix of them
        self.num_texts = 0

    def add(self, texts: Sequence[tuple[Any, ...]], keys: Iterable[int | None]) -> list[int]:
        """
        Encodes some texts; returns the number of the sequence of each.

        Args:
            texts (`list[tuple]`): As in [`encode`].
            keys (`list[int]`): Texts of one key with the same ids become one sequence; `None` for one of its own.

        Raises:
            `RefusedText`: if the chat template refuses a text.
        """
        begin = self.num_texts
        try:
            strings, prompt_lengths = self._rendered(texts)
        except RefusedText as error:
            raise RefusedText(str(error), begin + error.number) from error
        self.num_texts += len(texts)
        encodings = self.encode_batch(strings, add_special_tokens=self.data_format == "text")
        return [
            self.sequences.add(encoding.ids, _first_token_at(encoding, length) if self.find_completions else None, key)
            for encoding, length, key in zip(encodings, prompt_lengths, keys)
        ]

    def _rendered(self, texts: Sequence[tuple[Any, ...]]) -> tuple[list[str], Sequence[int]]:
        if not self.find_completions:  # where prompts end is not asked for, and costs as much again
            return render_whole(texts, self.tokenizer, self.data_format), [0] * len(texts)
        strings, prompt_lengths, whole = render_prompts(texts, self.tokenizer, self.data_format)
        self.partial += [self.num_texts + k for k, is_whole in enumerate(whole) if not is_whole]
        return strings, prompt_lengths


class Sequences:
    """
    The distinct sequences so far, cut on the left, and counts of what was cut.

    Args:
        num_prefix (`int`): Special tokens before a text, which a cut keeps.
        max_length (`int`): Tokens that a sequence may have.
        folder (`Path`, *optional*): Where the ids of a large data set go until they are taken.
    """

    def __init__(self, num_prefix: int, max_length: int, folder: Path | None = None):
        self.num_prefix, self.max_length, self.folder = num_prefix, max_length, folder
        self.ids = TokenSpool(folder)
        self.lengths, self.starts, self.cuts = array("i"), array("i"), array("q")
        self.seen: dict[tuple[int, bytes], int] = {}

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
        if cut:
            ids = ids[: self.num_prefix] + ids[self.num_prefix + cut :]
            start = None if start is None else max(self.num_prefix, start - cut)
        number = len(self.lengths)
        if key is not None:
            known = self.seen.setdefault((key, array("i", ids).tobytes()), number)
            if known < number:
                return known
        self._append(ids, 0 if start is None else min(start, len(ids)), cut)
        return number

    def _append(self, ids: Sequence[int], start: int, cut: int) -> None:
        self.ids.extend(ids)
        self.lengths.append(len(ids))
        self.starts.append(start)
        self.cuts.append(cut)

    def merged(self) -> tuple[Sequences, np.ndarray]:
        """
        Returns the sequences with those of the same ids made one, the first of them; and `np.ndarray` of shape
        `(num_sequences,)`, the new number of each.
        """
        once, ids = Sequences(self.num_prefix, self.max_length, self.folder), self.ids.array()
        numbers, end = np.zeros(len(self.lengths), dtype=np.int64), 0
        for number, (length, start, cut) in enumerate(zip(self.lengths, self.starts, self.cuts)):
            piece, end = ids[end : end + length], end + length
            known = once.seen.setdefault((0, piece.tobytes()), len(once.lengths))
            if known == len(once.lengths):
                once._append(piece.tolist(), start, cut)
            numbers[number] = known
        return once, numbers

    def columns(self) -> dict[str, Any]:
        """`ids`, `offsets` and `completion_start` of all sequences, and the two counts."""
        cuts = np.array(self.cuts, dtype=np.int64)
        return {
            "ids": self.ids.array(),
            "offsets": np.concatenate([[0], np.cumsum(np.array(self.lengths, dtype=np.int64))]).astype(np.int64),
            "completion_start": np.array(self.starts, dtype=np.int32),
            "num_truncated": int((cuts > 0).sum()),
            "num_truncated_tokens": int(cuts.sum()),
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
    sequences = Sequences(0, max_length)
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
