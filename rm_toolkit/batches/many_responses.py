"""A prompt with more pairs than a micro-batch holds: each response is computed in one micro-batch instead of many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .prefixes import SHARING_OVERHEAD
from .tokenization import TokenizedPreferences


# A response computed once costs two forward passes (rewards first, then again with their gradient) and a backward pass,
# which takes as long as two: 4. With its pairs dealt out, it costs 3 in each micro-batch that has it.
TWO_PASSES, ONE_PASS = 4, 3


@dataclass(frozen=True)
class ManyResponses:
    """
    A prompt whose responses are computed once each.

    Args:
        pairs (`np.ndarray`): Indices of its pairs.
        sequences (`list[np.ndarray]`): The sequences of each of its micro-batches.
    """

    pairs: np.ndarray
    sequences: list[np.ndarray]


@dataclass(frozen=True)
class ResponsePart:
    """
    Responses of one prompt that a micro-batch computes; the other response of a pair may be in another micro-batch.

    Args:
        sequences (`np.ndarray`): Indices of the sequences of this micro-batch.
        number (`int`): Index among the prompt's micro-batches, from 0; the last one has the pairs.
        everything (`list[np.ndarray]`): The sequences of all of them.
    """

    sequences: np.ndarray
    number: int
    everything: list[np.ndarray]

    @property
    def num_parts(self) -> int:
        """Number of micro-batches of the prompt."""
        return len(self.everything)

    def places(self, sequences: np.ndarray) -> np.ndarray:
        """Positions of sequences of the prompt among those of all its micro-batches."""
        everything = np.concatenate(self.everything)
        order = np.argsort(everything)
        return order[np.searchsorted(everything, sequences, sorter=order)]

    def parts_before(self, sequences: np.ndarray) -> np.ndarray:
        """Distance back, in micro-batches, to the one that computes each of some sequences of the prompt."""
        ends = np.cumsum([len(own) for own in self.everything])
        return self.number - np.searchsorted(ends, self.places(sequences), side="right")


def responses_once(
    data: TokenizedPreferences, pieces: list[np.ndarray], *, pairs: int, tokens: int | None, shared: bool, common: int
) -> ManyResponses | None:
    """
    Assigns each response of one prompt to one micro-batch; `None` if the pieces of its pairs cost less.

    Args:
        data (`TokenizedPreferences`): The data that they come from.
        pieces (`list[np.ndarray]`): The prompt's pairs as they would be split over micro-batches.
        pairs (`int`): Maximum number of pairs per micro-batch, two responses each; not used if `tokens` is given.
        tokens (`int`, *optional*): Maximum number of tokens per micro-batch.
        shared (`bool`): Whether the prompt is computed once in each micro-batch.
        common (`int`): Tokens of the prompt that are then shared.
    """
    number = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    members = np.concatenate(pieces)
    sequences = np.concatenate([data.better[members], data.worse[members]]).astype(np.int64)
    computed = np.unique(np.concatenate([number, number]) * data.num_sequences + sequences) % data.num_sequences
    distinct = np.unique(computed)
    own, once = data.lengths - (common if shared else 0), common + SHARING_OVERHEAD if shared else 0
    ordered = distinct[np.argsort(own[distinct], kind="stable")]
    parts = _filled(ordered, own[ordered], once, tokens, 2 * pairs, padded=not shared)
    cost_of_parts = own[distinct].sum() + once * len(parts)
    if TWO_PASSES * cost_of_parts >= ONE_PASS * (own[computed].sum() + once * len(pieces)):
        return None
    return ManyResponses(members, [np.sort(part) for part in parts])


def _filled(
    sequences: np.ndarray, own: np.ndarray, once: int, tokens: int | None, count: int, *, padded: bool
) -> list[np.ndarray]:
    """The sequences, shortest first, as many in each part as fit."""
    parts, begin, total = [], 0, once
    for end, length in enumerate(own.tolist()):
        total += length
        size = end + 1 - begin
        over = size > count if tokens is None else (size * length if padded else total) > tokens
        if over and size > 1:
            parts.append(sequences[begin:end])
            begin, total = end, once + length
    return [*parts, sequences[begin:]]


def append_prompts(
    data: TokenizedPreferences, chunks: list[np.ndarray], many: list[ManyResponses], num_processes: int
) -> dict[int, ResponsePart]:
    """
    Appends prompts to the micro-batches of a step, the largest first: each to the process with the fewest tokens.

    Args:
        data (`TokenizedPreferences`): Where they come from.
        chunks (`list[np.ndarray]`): Numbers of the pairs of the first micro-batch of every process, then of the second, and
            so on. The pairs of a prompt are in its last one.
        many (`list[ManyResponses]`): The prompts.
        num_processes (`int`): Number of processes.

    Returns:
        `dict[int, ResponsePart]`: What the new micro-batches compute.
    """
    if not many:
        return {}
    texts = [np.unique(np.concatenate([data.better[chunk], data.worse[chunk]])) for chunk in chunks]
    total = [
        sum(int(data.lengths[found].sum()) for found in texts[process::num_processes])
        for process in range(num_processes)
    ]
    size = [int(data.lengths[np.concatenate(prompt.sequences)].sum()) for prompt in many]
    mine: list[list[tuple[np.ndarray, ResponsePart]]] = [[] for _ in range(num_processes)]
    for number in sorted(range(len(many)), key=lambda k: -size[k]):
        pairs, sequences = many[number].pairs, many[number].sequences
        process = min(range(num_processes), key=lambda k: total[k])
        total[process] += 2 * size[number]  # half of them without gradients
        last = len(sequences) - 1
        for place, own in enumerate(sequences):
            mine[process].append((pairs if place == last else pairs[:0], ResponsePart(own, place, sequences)))
    parts: dict[int, ResponsePart] = {}
    none = many[0].pairs[:0]
    for slot in range(max(map(len, mine))):
        for process in range(num_processes):
            pairs, part = mine[process][slot] if slot < len(mine[process]) else (none, None)
            if part is not None:
                parts[len(chunks)] = part
            chunks.append(pairs)
    return parts
