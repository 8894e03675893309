"""Rows of an `IterableDataset` -> tokenized pairs, block by block; the position can be saved and restored exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from ..data.id_rows import id_columns
from ..data.messages import TEMPLATE_COLUMNS, null_stripper
from ..data.records import Place
from ..data.schema import text_or_messages
from ..errors import InputError
from .equal_texts import CAUSES
from .given_ids import row_reader
from .groups import PairGroups
from .preference_rows import PreferenceRow, check_columns, stated_scores
from .refused_rows import RefusedRow
from .stream_errors import ReadErrors, StreamPlace, check_shards
from .tokenization import TokenizedPreferences


Tokenize = Callable[[Iterable[PreferenceRow]], TokenizedPreferences]


@dataclass
class _Block:
    """Rows that were in the shuffle buffer together: their pairs in the order of training, and their start position."""

    data: TokenizedPreferences
    order: np.ndarray
    position: dict[str, Any]
    first_row: int
    taken: int = 0


class PreferenceStream:
    """
    One process's share of a stream of preference rows.

    The shuffle buffer is a block of `buffer_size` rows: it is filled, its pairs are grouped by prompt and shuffled, and
    when they are used up the next block is read. A block is therefore the same whenever it is read from the same
    position, so a restored run is exact. A buffer that is refilled row by row would be lost with the run.

    Args:
        dataset (`datasets.IterableDataset`): Pairs (`chosen`, `rejected`) or ranked rows (`completions`, `scores`).
        tokenize (`Callable`): Turns rows into token ids.
        name (`str`): Name of the dataset, for the errors.
        buffer_size (`int`): Rows of a block.
        num_processes (`int`): Number of processes. Each reads different shards if there are enough, else each skips
            the rows of the others.
        process_index (`int`): Index of this process.
        seed (`int`): Seed of the order, which differs between passes over the data.
        group_by_prompt (`bool`): Whether pairs of one prompt that are in the buffer together stay together.
        tied_rows (`bool`): Whether rows whose scores are all tied count. A block then has at least one pair and only ends
            before a row with a pair, so that each tied row is in the block of the pair before it.
        num_tokens (`int`, *optional*): Number of tokens of the tokenizer, if the rows may be token ids.
        watch (`Callable`, *optional*): Called with each row, in each pass.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        tokenize: Tokenize,
        *,
        name: str = "train",
        buffer_size: int = 1000,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 42,
        group_by_prompt: bool = True,
        tied_rows: bool = False,
        num_tokens: int | None = None,
        watch: Callable[[Mapping[str, Any]], None] | None = None,
    ):
        self.source = dataset
        self.tokenize = tokenize
        self.name = name
        self.buffer_size = buffer_size
        self.num_processes, self.process_index = num_processes, process_index
        self.seed = seed
        self.group_by_prompt, self.tied_rows = group_by_prompt, tied_rows
        self.num_tokens, self.watch = num_tokens, watch
        self.num_rows = self.num_pairs = self.num_texts = self.num_truncated = 0
        self.equal_pairs = np.zeros(len(CAUSES), dtype=np.int64)
        self._strip = null_stripper(dataset.features)
        if num_processes > 1:
            strategy = "shards" if dataset.num_shards >= num_processes else "auto"
            dataset = split_dataset_by_node(dataset, process_index, num_processes, strategy=strategy)
        self._dataset = dataset
        self._open({"pass": 0, "block": 0, "row": 0, "dataset": None})

    def sample(self, size: int = 64) -> list[Mapping[str, Any]]:
        """
        Returns the first rows of the whole stream, the same on every process, before any of them is trained on.

        Raises:
            `InputError`: if they cannot be read, or there are none.
        """
        with self._readable(0):
            rows = [dict(self._strip(row) if self._strip else row) for row in self.source.take(size)]
        if not rows:
            raise InputError(f"dataset '{self.name}' is a stream without rows. Give files with rows.")
        return [self._checked(row, number) for number, row in enumerate(rows, 1)]

    def available(self, wanted: int) -> int:
        """
        Reads until `wanted` pairs are ready, or this pass ends.

        Returns:
            `int`: Number of ready pairs, at most `wanted`.

        Raises:
            `InputError`: naming the row that cannot be used.
        """
        while self._num_ready() < wanted and self._read_block():
            pass
        return min(self._num_ready(), wanted)

    def take(self, number: int) -> list[tuple[TokenizedPreferences, np.ndarray, int]]:
        """
        Hands out the next pairs.

        Returns:
            `list[tuple]`: Data, pair indices in it, and the offset of their row indices; `number` pairs in all.
        """
        parts = []
        while number:
            block = self._blocks[0]
            pairs = block.order[block.taken : block.taken + number]
            if len(pairs):
                parts.append((block.data, pairs, block.first_row))
            block.taken += len(pairs)
            number -= len(pairs)
            if block.taken == len(block.order):
                self._blocks.pop(0)
        return parts

    def next_pass(self) -> None:
        """Starts the data again, with its shards in another order."""
        self._open({"pass": self.pass_number + 1, "block": 0, "row": 0, "dataset": None})

    def state_dict(self) -> dict[str, Any]:
        """The position: the start of the oldest block that is not used up, and how many of its pairs were taken."""
        blocks = [block for block in self._blocks if block.taken < len(block.order)]
        if blocks:
            return {**blocks[0].position, "taken": blocks[0].taken, "shards": self.source.num_shards}
        return {**self._position, "taken": 0, "shards": self.source.num_shards}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Goes to a saved position; the same pairs follow.

        Raises:
            `InputError`: if it is a position in other data, or in shards that are now read differently.
        """
        state = dict(state)
        taken = state.pop("taken")
        check_shards(self.name, state.pop("shards", None), self.source)
        self._open(state)
        self.num_rows = self.num_pairs = self.num_texts = self.num_truncated = 0
        self.equal_pairs[:] = 0
        if taken:
            self._read_block()
            if not self._blocks or len(self._blocks[0].order) < taken:
                raise InputError(
                    f"dataset '{self.name}' is not the one that the checkpoint was made with: its block "
                    f"{state['block']} has fewer than {taken} pairs. Resume with the same data and `shuffle_buffer_size`."
                )
            self._blocks[0].taken = taken

    def _open(self, position: dict[str, Any]) -> None:
        self.pass_number: int = position["pass"]
        self._dataset.load_state_dict(position["dataset"])
        # `datasets` derives the order of the shards from the epoch; 0 would keep the order of the files for every seed.
        self._dataset.set_epoch(1 + self.seed * 100_000 + self.pass_number)
        self._iterator = iter(self._dataset)
        self._position = position
        self._next_row: Mapping[str, Any] | None = None
        self._blocks: list[_Block] = []
        self._ended = False

    def _num_ready(self) -> int:
        return sum(len(block.order) - block.taken for block in self._blocks)

    def _read_block(self) -> bool:
        """Fills the shuffle buffer once; returns whether there were any rows."""
        position = self._position
        rows: list[Mapping[str, Any]] = []
        has_pair = not self.tied_rows
        while True:
            before = self._dataset.state_dict() if len(rows) >= self.buffer_size else None
            row = self._read_row(position["row"] + len(rows))
            if row is None:
                break
            if before is not None and has_pair and not self._goes_on(rows, row):
                self._next_row = row
                break
            rows.append(row)
            has_pair = has_pair or not self._is_tied(row)
        if not rows:
            return False
        end = self._dataset.state_dict() if self._next_row is None else before
        self._position = {
            "pass": position["pass"],
            "block": position["block"] + 1,
            "row": position["row"] + len(rows),
            "dataset": end,
        }
        read = row_reader(rows[0], self.name, self.num_tokens or 0)
        first = position["row"] + 1
        try:
            data = self.tokenize(read(row, self._place(number)) for number, row in enumerate(rows, first))
        except RefusedRow as error:
            raise self._place(first + error.row).error(error.problem, "") from error
        self.num_rows += len(rows)
        self.num_pairs += len(data)
        self.equal_pairs += data.equal_pairs
        self.num_texts += data.num_sequences
        self.num_truncated += data.num_truncated
        groups = PairGroups.of(data.prompt if self.group_by_prompt else data.row)
        key = [self.seed, position["pass"], position["block"], self.process_index]
        order = np.random.default_rng(key).permutation(len(groups))
        pairs = groups.take(order).pairs
        if len(pairs):
            self._blocks.append(_Block(data, pairs, position, position["row"]))
        return True

    def _goes_on(self, rows: list[Mapping[str, Any]], row: Mapping[str, Any]) -> bool:
        """Whether a row still belongs to the full block of the rows before it."""
        if self.tied_rows and self._is_tied(row):
            return True
        # The longest wait for a prompt to end.
        return len(rows) < 2 * self.buffer_size and _same_prompt(rows[-1], row)

    def _is_tied(self, row: Mapping[str, Any]) -> bool:
        ranked = "completions" in row
        return len(set(stated_scores(row, ranked, self._place(0)))) == 1

    def _read_row(self, number: int) -> Mapping[str, Any] | None:
        """The next row, checked, or `None` at the end of the pass; `number` rows were read before it."""
        if self._next_row is not None:
            row, self._next_row = self._next_row, None
            return row
        if self._ended:
            return None
        with self._readable(number):
            row = next(self._iterator, None)
        if row is None:
            self._ended = True
            return None
        row = self._strip(row) if self._strip else row
        row = self._checked(row, number + 1)
        if self.watch is not None:
            self.watch(row)
        return row

    def _readable(self, number: int) -> Any:
        return ReadErrors(self.name, number)

    def _place(self, number: int) -> Place:
        share = f", share of process {self.process_index}" if self.num_processes > 1 else ""
        return StreamPlace(f"dataset '{self.name}', a stream{share}", "row", number)

    def _checked(self, row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        place = self._place(number)
        if id_columns(row) is not None:
            row_reader(row, self.name, self.num_tokens or 0)(row, place)
            return row
        ranked = check_columns(row, self.name)
        stated_scores(row, ranked, place)
        if ranked:
            texts = {f"completions[{k}]": text for k, text in enumerate(row["completions"])}
        else:
            texts = {name: row[name] for name in ("chosen", "rejected")}
        if row.get("prompt"):
            texts["prompt"] = row["prompt"]
        for name, text in texts.items():
            text_or_messages(text, name, place)
        return row


def _same_prompt(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    keys = [row.get("prompt_id") or row.get("prompt") or None for row in (first, second)]
    alike = all(first.get(name) == second.get(name) for name in TEMPLATE_COLUMNS)
    return keys[0] is not None and keys[0] == keys[1] and alike
