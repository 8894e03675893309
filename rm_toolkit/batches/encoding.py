"""Texts -> token ids: in batches, truncated on the left, with counts of truncated texts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..output.progress import no_bar
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
        texts (`list[tuple]`): (prompt, completion), strings or message lists, or a complete
            [`~rm_toolkit.data.messages.Conversation`].
        tokenizer, max_length, data_format, name, show_progress: As in
            [`~rm_toolkit.batches.tokenization.tokenize_preferences`].
        find_completions (`bool`): Whether to find where each completion begins, which needs character offsets.
        merge_within (`Sequence[int]`, *optional*): A key per text; texts with the same key and the same ids become one
            sequence. Default: each text is a separate sequence.

    Raises:
        `RefusedText`: if the chat template refuses a text.

    Returns:
        `tuple`: `ids`, `offsets`, `completion_start` and counts of what was cut; and `np.ndarray` of shape
        `(len(texts),)`, the sequence of each text.
    """
    encoder = Encoder(tokenizer, max_length, data_format, find_completions=find_completions)
    progress = tqdm(
        total=len(texts), desc=f"Tokenizing {name}", unit="text", disable=no_bar(show_progress), leave=False, delay=2
    )
    numbers: list[int] = []
    for begin in range(0, len(texts), BATCH_SIZE):
        batch = texts[begin : begin + BATCH_SIZE]
        keys = None if merge_within is None else merge_within[begin : begin + len(batch)]
        numbers += encoder.add(batch, keys)
        progress.update(len(batch))
    progress.close()
    return encoder.sequences.columns(), np.array(numbers, dtype=np.int64)


class Encoder:
    """
    Encodes texts to sequences, batch by batch.

    Args:
        tokenizer, max_length, data_format, find_completions: As in [`encode`].
        folder (`Path`, *optional*): Folder for the ids of a large dataset until they are taken.
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
        self.partial: list[int] = []  # numbers of the texts whose rendered prompt is not a prefix of them
        self.num_texts = 0

    def add(self, texts: Sequence[tuple[Any, ...]], keys: Iterable[int] | None = None) -> list[int]:
        """
        Encodes some texts; returns the sequence index of each.

        Args:
            texts (`list[tuple]`): As in [`encode`].
            keys (`list[int]`, *optional*): Texts with the same key and the same ids become one sequence. Default: each
                text is a separate sequence.

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
        starts = None
        if self.find_completions:
            starts = [_first_token_at(encoding, length) for encoding, length in zip(encodings, prompt_lengths)]
        return self.sequences.extend([encoding.ids for encoding in encodings], starts, keys)

    def _rendered(self, texts: Sequence[tuple[Any, ...]]) -> tuple[list[str], Sequence[int]]:
        if not self.find_completions:  # the ends of prompts are not needed, and would double the cost
            return render_whole(texts, self.tokenizer, self.data_format), [0] * len(texts)
        strings, prompt_lengths, whole = render_prompts(texts, self.tokenizer, self.data_format)
        self.partial += [self.num_texts + k for k, is_whole in enumerate(whole) if not is_whole]
        return strings, prompt_lengths


class Sequences:
    """
    The distinct sequences so far, cut on the left, and counts of what was cut.

    Args:
        num_prefix (`int`, or `np.ndarray` of shape `(num_texts,)`): Tokens at the beginning of a text that a cut keeps.
        max_length (`int`): Most tokens per sequence.
        folder (`Path`, *optional*): Folder for the ids of a large dataset until they are taken.
    """

    def __init__(self, num_prefix: int | np.ndarray, max_length: int, folder: Path | None = None):
        self.num_prefix, self.max_length, self.folder = num_prefix, max_length, folder
        self.ids = TokenSpool(folder)
        self.lengths, self.starts, self.cuts = array("i"), array("i"), array("q")
        self.seen: dict[tuple[int, bytes], int] = {}

    def extend(
        self, texts: list[list[int]], starts: Sequence[int] | None = None, keys: Iterable[int] | None = None
    ) -> list[int]:
        """
        Adds some texts.

        Args:
            texts (`list[list[int]]`): Token ids of each; the list changes.
            starts (`Sequence[int]`, *optional*): Where the completion of each begins, if needed.
            keys (`Iterable[int]`, *optional*): Texts of one key with the same ids are one sequence. Default: each text is a
                sequence of its own.

        Returns:
            `list[int]`: Index of the sequence of each text.
        """
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        prefixes = np.broadcast_to(self.num_prefix, len(texts))
        cuts = np.maximum(lengths - self.max_length, 0)
        for k in np.flatnonzero(cuts).tolist():
            texts[k] = texts[k][: prefixes[k]] + texts[k][prefixes[k] + cuts[k] :]
        begin = np.zeros(len(texts), dtype=np.int64)
        if starts is not None:
            begin += starts
            begin = np.minimum(np.where(cuts > 0, np.maximum(prefixes, begin - cuts), begin), lengths - cuts)
        if keys is None:
            numbers, new = list(range(len(self.lengths), len(self.lengths) + len(texts))), slice(None)
        else:
            numbers, new = self._known(texts, keys)
            texts = [texts[k] for k in new]
        for ids in texts:
            self.ids.extend(ids)
        for column, values in ((self.lengths, lengths - cuts), (self.starts, begin), (self.cuts, cuts)):
            column.frombytes(values[new].astype(column.typecode).tobytes())
        return numbers

    def _known(self, texts: list[list[int]], keys: Iterable[int]) -> tuple[list[int], list[int]]:
        """The sequence index of each text, and which texts are the first of their sequence."""
        numbers, new = [], []
        for k, (ids, key) in enumerate(zip(texts, keys)):
            number = len(self.lengths) + len(new)
            numbers.append(self.seen.setdefault((key, array("i", ids).tobytes()), number))
            if numbers[-1] == number:
                new.append(k)
        return numbers, new

    def merged(self) -> tuple[Sequences, np.ndarray]:
        """
        Returns the sequences with duplicates (same ids) merged into the first of them; and `np.ndarray` of shape
        `(num_sequences,)`, the new number of each.
        """
        once, ids = Sequences(self.num_prefix, self.max_length, self.folder), self.ids.array()
        numbers, end = np.zeros(len(self.lengths), dtype=np.int64), 0
        for number, (length, start, cut) in enumerate(zip(self.lengths, self.starts, self.cuts)):
            piece, end = ids[end : end + length], end + length
            known = once.seen.setdefault((0, piece.tobytes()), len(once.lengths))
            if known == len(once.lengths):
                once.ids.extend(piece.tolist())
                for column, value in ((once.lengths, length), (once.starts, start), (once.cuts, cut)):
                    column.append(value)
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
    Truncates texts given as token ids; equal ones become one sequence.

    Args:
        texts (`list[tuple[int, ...]]`): Token ids of each.
        starts (`Sequence[int]`): Where the completion of each begins.
        kept (`Sequence[int]`): Tokens at the beginning of each that a cut keeps.
        max_length (`int`): Most tokens per sequence.

    Returns:
        `tuple`: As from [`encode`].
    """
    sequences = Sequences(np.array(kept, dtype=np.int64), max_length)
    numbers = sequences.extend(list(map(list, texts)), starts, [0] * len(texts))
    return sequences.columns(), np.array(numbers, dtype=np.int64)


def _num_special(tokenizer: PreTrainedTokenizerBase, data_format: str) -> int:
    """Number of special tokens that the tokenizer puts before a text; truncation keeps them."""
    if data_format == "chat":  # a template's BOS is text to the saved tokenizer, which truncates it with the rest
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
