"""The pairs of a step, split over processes and micro-batches, and the micro-batch of each text of the LM loss."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .filling import Filler
from .groups import PairGroups
from .many_responses import ManyResponses, ResponsePart, append_prompts
from .tokenization import TokenizedPreferences
from .unpaired import AFTER, joining


# How the pairs of a step are split over several processes. A checkpoint records the version, and its run keeps it.
# 1, up to version 0.4.0: first fit, the micro-batches dealt in turn. 2: by tokens, see `dealing`.
PLAN_VERSION = 2


@dataclass(frozen=True)
class StepSplit:
    """
    One optimizer step on all processes.

    Args:
        micro_batches (`list[np.ndarray]`): Numbers of the pairs of the first micro-batch of every process, then of the
            second, and so on; some may be empty.
        lm_sequences (`list[np.ndarray]`): The sequences whose LM loss each of them counts; every text of the step is
            in only one of them. Texts that are in no pair are counted by micro-batches of their own prompts, which may
            hold no pair.
        parts (`dict[int, ResponsePart]`): What those micro-batches compute that have other sequences than these.
    """

    micro_batches: list[np.ndarray]
    lm_sequences: list[np.ndarray]
    parts: dict[int, ResponsePart]


def split_pairs(
    data: TokenizedPreferences,
    filler: Filler,
    pairs: np.ndarray,
    num_processes: int = 1,
    version: int = PLAN_VERSION,
    count: int | None = None,
) -> StepSplit:
    """
    Splits the pairs of one step into micro-batches: those of a prompt together, prompts of similar length together.

    Args:
        data (`TokenizedPreferences`): The data that they come from.
        filler (`Filler`): Fills micro-batches of that data, or of its [`TokenizedPreferences.with_unpaired`].
        pairs (`np.ndarray`): Indices of the pairs.
        num_processes (`int`): Number of processes; the number of micro-batches is a multiple of it, some may be empty.
        version (`int`): Version of the rule that deals them to several processes, see `PLAN_VERSION`.
        count (`int`, *optional*): Fixed number of micro-batches per process, for version 2.
    """
    if not len(pairs):
        return StepSplit([], [], {})
    num_pairs = len(data)
    if filler.data is not data:
        unpaired = joining(data.unpaired[:, AFTER], pairs)[0]
        data, pairs = filler.data, np.concatenate([pairs, num_pairs + unpaired])
    groups = _by_length(data, pairs)
    many: list[ManyResponses] = []
    with _uncollected():
        if count is None and (num_processes == 1 or version == 1):
            chunks = filler.fill_groups(*groups, many)
            chunks += [pairs[:0]] * (-len(chunks) % num_processes)
        else:
            chunks = [chunk for slot in filler.deal_groups(*groups, num_processes, count, many) for chunk in slot]
    parts = append_prompts(data, chunks, many, num_processes)
    lm_sequences = _lm_sequences(data, chunks, parts, num_processes)
    return StepSplit([chunk[chunk < num_pairs] for chunk in chunks], lm_sequences, parts)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """
    Disables garbage collection. A large step creates tens of thousands of short-lived tuples, which would trigger
    collections over all objects of the process, and those take longer than the planning.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _lm_sequences(
    data: TokenizedPreferences, chunks: list[np.ndarray], parts: dict[int, ResponsePart], num_processes: int
) -> list[np.ndarray]:
    pairs = np.concatenate(chunks)
    chunk = np.repeat(np.arange(len(chunks)), [len(chunk) for chunk in chunks])
    columns = ((data.better, data.lm_better), (data.worse, data.lm_worse))
    candidates = np.concatenate([sequence[pairs][counts[pairs]] for sequence, counts in columns]).astype(np.int64)
    chunk_of = np.concatenate([chunk[counts[pairs]] for _, counts in columns])
    order = np.argsort(chunk_of, kind="stable")
    candidates, chunk_of = candidates[order], chunk_of[order]
    first_of = np.searchsorted(chunk_of, np.arange(len(chunks) + 1)).tolist()
    for number, part in parts.items():
        own = slice(first_of[number], first_of[number + 1])
        chunk_of[own] -= part.parts_before(candidates[own]) * num_processes
    # In the same order on every process, so that all agree on where a text is counted: in the first chunk that has it.
    texts, first = np.unique(candidates, return_index=True)
    counted_in = chunk_of[first]
    order = np.argsort(counted_in, kind="stable")
    return np.split(texts[order], np.searchsorted(counted_in[order], np.arange(1, len(chunks))))


def _by_length(data: TokenizedPreferences, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs prompt by prompt, those with short texts first; and where each prompt begins."""
    pairs = np.sort(pairs)
    groups = PairGroups.of(data.prompt[pairs])
    ordered = pairs[groups.pairs]
    longest = np.maximum(data.lengths[data.better[ordered]], data.lengths[data.worse[ordered]])
    groups = groups.take(np.argsort(np.maximum.reduceat(longest, groups.starts[:-1]), kind="stable"))
    return pairs[groups.pairs], groups.starts
