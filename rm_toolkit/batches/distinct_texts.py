"""The rows of a dataset and their distinct texts, encoded soon after they are read, so that none need be kept."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any

from datasets import Dataset

from ..data.id_rows import id_columns
from ..data.messages import Conversation, null_stripper
from ..data.records import RowPlace
from ..errors import InputError
from .encoding import BATCH_SIZE, Encoder
from .given_ids import row_reader
from .preference_rows import PreferenceRow, as_row, check_columns, compact_key, text_key
from .refused_rows import refused_rows
from .string_rows import string_rows


# Limits on strings and characters encoded at once. Batches keep the tokenizer's data in the CPU cache, which other work
# in between would evict.
SHORT_STRINGS, CHARACTERS = 4 * BATCH_SIZE, 1 << 20


class DistinctTexts:
    """
    The distinct texts of a dataset, encoded soon after they are read; not kept if they can be read again.

    Args:
        encoder (`Encoder`): Encodes them in batches.
        name (`str`): Name of the dataset.
        stored (`Callable`, *optional*): Reads a text again: (number of the row, which of its responses) -> text.
            Without it, the texts are kept.
    """

    def __init__(self, encoder: Encoder, name: str, stored: Callable[[int, int], Conversation] | None):
        self.encoder, self.name, self.stored = encoder, name, stored
        self.with_more: list[Conversation] = []  # texts with more than roles and contents
        self._numbers: dict[bytes, int] = {}
        self._held: list[Conversation] = []
        self._waiting: list[Conversation] = []
        self._characters = 0  # of the waiting texts
        self._rows, self._responses = array("i"), array("i")
        # Rows of one prompt often follow each other and have one text in common: it is looked up directly.
        self._prompt: Any = None
        self._of_prompt: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Conversation:
        if self.stored is None:
            return self._held[number]
        return self.stored(self._rows[number], self._responses[number])

    def members(self, row: PreferenceRow, row_number: int) -> list[int]:
        """Returns the index of each response of a row with its prompt; equal texts share it."""
        prompt, completions, known = row.prompt, row.completions, self._numbers
        strings = isinstance(prompt, str) and isinstance(completions[0], str)
        if not strings or prompt != self._prompt or len(self._of_prompt) >= BATCH_SIZE:
            self._prompt, self._of_prompt = prompt, {}
        of_prompt, found = self._of_prompt, []
        for response, completion in enumerate(completions):
            number = of_prompt.get(completion) if strings else None
            if number is None:
                key = prompt + completion if strings else text_key(prompt, completion, *_template(row))
                new = len(known)
                number = known.setdefault(compact_key(key), new)
                if number == new:
                    self._meet(Conversation(prompt, completion, *_template(row)), row_number, response)
                if strings:
                    of_prompt[completion] = number
            found.append(number)
        return found

    def _meet(self, text: Conversation, row_number: int, response: int) -> None:
        """Adds a new text."""
        if len(self._numbers) == 1:
            check_format(text, self.encoder.data_format, self.name)
        self._waiting.append(text)
        self._rows.append(row_number)
        if self.stored is None:
            self._held.append(text)
        else:
            self._responses.append(response)
        if isinstance(text.completion, str):
            self._characters += len(text.prompt) + len(text.completion)
        else:
            self._characters += CHARACTERS  # the rendered length of messages is not known
            if not text.is_plain:
                self.with_more.append(text)
        most = BATCH_SIZE if self._characters > CHARACTERS else SHORT_STRINGS
        if len(self._waiting) >= most:
            self.encode()

    def encode(self) -> None:
        """Encodes the waiting texts; an error names the first row with a text that the chat template refuses."""
        if self._waiting:
            with refused_rows(self.name, self._rows, self.encoder.tokenizer):
                self.encoder.add(self._waiting)
            self._waiting, self._characters = [], 0


def _template(row: PreferenceRow) -> tuple[Any, Any]:
    return row.tools, row.chat_template_kwargs


def rows_of(dataset: Dataset, name: str, num_tokens: int) -> Iterator[PreferenceRow]:
    """Yields the rows of a dataset, texts or token ids; the tokenizer has `num_tokens` tokens."""
    read = row_reader(dataset.column_names, name, num_tokens)
    strip = null_stripper(dataset.features)
    number, what = 0, f"dataset '{name}'"
    ranked = None if id_columns(dataset.column_names) else check_columns(dataset.column_names, name)
    for block in dataset.iter(batch_size=BATCH_SIZE):
        rows = None if ranked is None else string_rows(block, ranked)
        if rows is not None:
            number += len(rows)
            yield from rows
            continue
        names = tuple(block)
        for values in zip(*block.values()):
            number += 1
            row = dict(zip(names, values))
            yield read(strip(row) if strip else row, RowPlace(what, "row", number))


def read_again(dataset: Dataset, name: str) -> Callable[[int, int], Conversation]:
    """Returns a function that reads one response of a dataset with its prompt."""
    ranked, strip = check_columns(dataset.column_names, name), null_stripper(dataset.features)

    def read(number: int, response: int) -> Conversation:
        values = dataset[number]
        place = RowPlace(f"dataset '{name}'", "row", number + 1)
        row = as_row(strip(values) if strip else values, ranked, place)
        return Conversation(row.prompt, row.completions[response], row.tools, row.chat_template_kwargs)

    return read


def check_format(text: tuple[Any, ...], data_format: str, name: str) -> None:
    """Raises an `InputError` if a text is not in the format that a run reads."""
    found = "chat" if isinstance(text[1], list) else "text"
    if found != data_format:
        raise InputError(
            f"dataset '{name}' has {'message lists' if found == 'chat' else 'strings'} ({found} format), but this "
            f"run's `data_format` is '{data_format}'. Build the data with --format {data_format}, or set "
            f"`data_format: {found}`."
        )
