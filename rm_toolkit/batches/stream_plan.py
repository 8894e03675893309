"""Optimizer steps from a stream: each process reads its own rows, and all agree on the denominators of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset as TorchIterableDataset

from ..errors import InputError
from .collator import PreferenceCollator
from .epoch_plan import StepDataset, StepPlan
from .filling import Filler
from .micro_batch import MicroBatch
from .step_split import PLAN_VERSION, split_pairs
from .stream import PreferenceStream
from .tokenization import TokenizedPreferences
from .unpaired import AFTER, PROMPT, at_pairs


class StreamPlan(TorchIterableDataset):
    """
    Yields this process's list of micro-batches for each optimizer step, endlessly.

    The processes exchange a few numbers twice per step: how many pairs each has ready, and how many micro-batches, rows
    and texts of the LM loss its share has. Every step has exactly `pairs_per_step` pairs. At the end of a pass they come
    from the processes that still have rows, and then from the next pass, which begins for all processes at once.

    Args:
        stream (`PreferenceStream`): This process's rows.
        collator (`PreferenceCollator`): Builds the tensors.
        pairs_per_step (`int`): Pairs of one optimizer step, over all processes.
        pairs_per_micro_batch (`int`): Pairs that one process computes at once.
        exchange (`Callable`, *optional*): Gathers a value from every process to all; not needed for one process.
        pair_weighting, tokens_per_micro_batch, shared_layout, lm_loss, version: As in
            [`~rm_toolkit.batches.epoch_plan.EpochPlan`]; each process splits its own pairs, into as many micro-batches as
            the process that needs most.
    """

    def __init__(
        self,
        stream: PreferenceStream,
        collator: PreferenceCollator,
        *,
        pairs_per_step: int,
        pairs_per_micro_batch: int,
        exchange: Callable[[Any], list[Any]] | None = None,
        pair_weighting: str = "pair",
        tokens_per_micro_batch: int | None = None,
        shared_layout: bool = False,
        lm_loss: bool = True,
        version: int = PLAN_VERSION,
    ):
        self.version = version
        self.stream = stream
        self.collator = collator
        self.pairs_per_step = pairs_per_step
        self.filling = {"pairs": pairs_per_micro_batch, "tokens": tokens_per_micro_batch, "shared": shared_layout}
        self.pair_weighting, self.lm_loss = pair_weighting, lm_loss
        self.exchange = exchange or (lambda value: [value])

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        while True:
            yield self._batches(*self.next_step())

    def next_step(self) -> tuple[TokenizedPreferences, StepPlan]:
        """
        Reads and plans one step.

        Raises:
            `InputError`: if a process found a row that cannot be used (all stop), or a whole pass had no pair.
        """
        data = gather_pairs(self._next_pairs(), self.stream.name)
        return data, self._plan(data)

    def resize(self, pairs: int, tokens: int | None) -> None:
        """Sets another micro-batch limit, from the next planned step on."""
        self.filling |= {"pairs": pairs, "tokens": tokens}

    def planned_again(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        """
        Splits a returned step again, into micro-batches of the current size; called by all processes together.

        Args:
            batches (`list[MicroBatch]`): This process's share of the step.
        """
        return self._batches(batches[0].data, self._plan(batches[0].data))

    def _batches(self, data: TokenizedPreferences, plan: StepPlan) -> list[MicroBatch]:
        batches = StepDataset(data, self.collator)[plan]
        for batch in batches:
            batch.data = data
        return batches

    def _plan(self, data: TokenizedPreferences) -> StepPlan:
        """The plan of a step; `data` is this process's share."""
        pairs = np.arange(len(data))
        empty = np.zeros(0, dtype=np.int64)
        filler = Filler(data.with_unpaired() if self.lm_loss else data, **self.filling, once=self.version > 1)
        split = split_pairs(data, filler, pairs)
        rows, row_of_pair, row_size = np.unique(data.row, return_inverse=True, return_counts=True)
        num_rows = len(rows) + len(data.tied_rows)
        numbers = (len(split.micro_batches), num_rows, sum(map(len, split.lm_sequences)), len(split.parts))
        counts = np.array(self.exchange(numbers))
        most = int(counts[:, 0].max())
        if self.version > 1 and self.stream.num_processes > 1:
            split = split_pairs(data, filler, pairs, count=most)
        missing = most - len(split.micro_batches)
        if self.pair_weighting == "pair":
            weights = np.full(len(data), 1.0 / self.pairs_per_step)
        else:
            weights = 1.0 / (row_size[row_of_pair] * counts[:, 1].sum())
        return StepPlan(
            micro_batches=[*split.micro_batches, *[empty] * missing],
            lm_sequences=[*split.lm_sequences, *[empty] * missing],
            pair_weight=dict(zip(pairs.tolist(), weights.tolist())),
            lm_weight=1.0 / max(int(counts[:, 2].sum()), 1),
            num_pairs=self.pairs_per_step,
            parts=split.parts,
            first_passes=int(counts[:, 3].max()),
        )

    def _next_pairs(self) -> list[tuple[TokenizedPreferences, np.ndarray, int]]:
        """This process's share of the pairs of one step."""
        parts = []
        missing, fresh_passes = self.pairs_per_step, 0
        while missing:
            shares = allot(self._ready(missing), missing)
            if sum(shares):
                parts += self.stream.take(shares[self.stream.process_index])
                missing -= sum(shares)
                fresh_passes = 0
                continue
            fresh_passes += 1
            if fresh_passes > 1:
                raise InputError(
                    f"dataset '{self.stream.name}': a whole pass over the stream gave no pair with a preference. "
                    "Check its scores, and that the files have rows."
                )
            self.stream.next_pass()
        return parts

    def _ready(self, missing: int) -> list[int]:
        """How many pairs each process has ready, at most its even share of the missing ones."""
        ready, problem = 0, None
        try:
            ready = self.stream.available(-(-missing // self.stream.num_processes))
        except InputError as error:
            problem = str(error)
        answers = self.exchange((ready, problem))
        for _, text in answers:  # a row that one process cannot use stops all of them, with the same message
            if text is not None:
                raise InputError(text)
        return [number for number, _ in answers]

    def state_dict(self) -> dict[str, Any]:
        """This process's position in the stream, after the steps handed out so far."""
        return {"num_processes": self.stream.num_processes, **self.stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Moves to a saved position.

        Raises:
            `InputError`: if it was saved by another number of processes, which had different shares of the stream.
        """
        state = dict(state)
        saved = state.pop("num_processes")
        if saved != self.stream.num_processes:
            raise InputError(
                f"the checkpoint's position in the stream is for {saved} process(es), but this run has "
                f"{self.stream.num_processes}, which read different shards. Resume with {saved}."
            )
        self.stream.load_state_dict(state)


def allot(ready: list[int], wanted: int) -> list[int]:
    """
    How many pairs each process gives to a step: as even as possible, `wanted` in total if they have that many.

    Args:
        ready (`list[int]`): Pairs that each process has.
        wanted (`int`): Pairs that the step needs.
    """
    shares = [0] * len(ready)
    while wanted:
        able = [k for k, number in enumerate(ready) if number > shares[k]]
        if not able:
            break
        each = max(1, min(wanted // len(able), min(ready[k] - shares[k] for k in able)))
        for k in able[:wanted]:
            shares[k] += each
            wanted -= each
    return shares


def gather_pairs(parts: list[tuple[TokenizedPreferences, np.ndarray, int]], name: str) -> TokenizedPreferences:
    """
    Concatenates pairs of several blocks into one dataset, renumbering their sequences; the pairs keep their order.

    Args:
        parts (`list[tuple]`): From [`~rm_toolkit.batches.stream.PreferenceStream.take`].
        name (`str`): Name of the result.
    """
    columns: dict[str, list[np.ndarray]] = {}
    pieces, starts = [], []
    prompts = num_pairs = 0
    taken: dict[int, list[np.ndarray]] = {}
    for data, pairs, _ in parts:  # several parts of one block share its texts
        taken.setdefault(id(data), []).append(pairs)
    blocks = {id(data): (data, first_row) for data, _, first_row in parts}
    for data, first_row in blocks.values():
        pairs = np.concatenate(taken[id(data)])
        unpaired, tied_rows = at_pairs(data.unpaired, data.tied_rows, pairs)
        texts = np.concatenate([data.better[pairs], data.worse[pairs], unpaired[:, :PROMPT].ravel()])
        used, number = np.unique(texts, return_inverse=True)
        number = number + len(pieces)
        _, prompt = np.unique(np.concatenate([data.prompt[pairs], unpaired[:, PROMPT]]), return_inverse=True)
        unpaired[:, :PROMPT] = number[2 * len(pairs) :].reshape(-1, 2)
        unpaired[:, PROMPT] = prompt[len(pairs) :] + prompts
        unpaired[:, AFTER] += num_pairs
        margin = np.zeros(len(pairs), dtype=np.float32) if data.margin is None else data.margin[pairs]
        part = {
            "better": number[: len(pairs)],
            "worse": number[len(pairs) : 2 * len(pairs)],
            "row": data.row[pairs].astype(np.int64) + first_row,
            "prompt": prompt[: len(pairs)] + prompts,
            "margin": margin,
            "lm_better": data.lm_better[pairs],
            "lm_worse": data.lm_worse[pairs],
            "unpaired": unpaired,
            "tied_rows": tied_rows + num_pairs,
        }
        for key, value in part.items():
            columns.setdefault(key, []).append(value)
        prompts += int(prompt.max(initial=-1)) + 1
        num_pairs += len(pairs)
        pieces += [data.sequence(k) for k in used]
        starts.append(data.completion_start[used])
    whole = {key: np.concatenate(values) for key, values in columns.items()}
    for key in ("better", "worse", "row", "prompt"):
        whole.setdefault(key, np.zeros(0, dtype=np.int64))
    for key in ("lm_better", "lm_worse"):
        whole.setdefault(key, np.zeros(0, dtype=bool))
    if all(data.margin is None for data, _, _ in parts):
        whole["margin"] = None
    return TokenizedPreferences(
        name=name,
        ids=np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int32),
        offsets=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
        completion_start=np.concatenate(starts) if starts else np.zeros(0, dtype=np.int32),
        first_two=np.zeros((0, 2), dtype=np.int32),
        lm_target_eos=parts[0][0].lm_target_eos if parts else None,
        **whole,
    )
