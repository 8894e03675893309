"""How often the responses of a prompt with many of them are computed, a step: in two passes, and with its pairs split."""

from __future__ import annotations

import numpy as np

from rm_toolkit.batches.filling import Filler
from rm_toolkit.batches.step_split import split_pairs
from rm_toolkit.batches.tokenization import TokenizedPreferences
from rm_toolkit.output.markdown import table


def one_prompt(responses: int, prompt_tokens: int = 40, response_tokens: int = 60) -> TokenizedPreferences:
    """A prompt with so many ranked responses, each better than all after it."""
    length = prompt_tokens + response_tokens
    ids = np.random.default_rng(0).integers(10, 30_000, (responses, length), dtype=np.int32)
    ids[:, :prompt_tokens] = ids[0, :prompt_tokens]
    better, worse = np.triu_indices(responses, 1)
    none, zeros = np.zeros(len(better), dtype=bool), np.zeros(len(better), dtype=np.int32)
    return TokenizedPreferences(
        name="train", ids=ids.ravel(), offsets=np.arange(responses + 1) * length,
        completion_start=np.zeros(responses, dtype=np.int32), better=better.astype(np.int32),
        worse=worse.astype(np.int32), row=zeros, prompt=zeros, margin=None, lm_better=none, lm_worse=none,
        first_two=np.zeros((0, 2), dtype=np.int32),
    )  # fmt: skip


def passes(responses: int, pairs: int, once: bool) -> tuple[int, int]:
    """Responses that go forward, and backward, in the step of one such prompt."""
    data = one_prompt(responses)
    split = split_pairs(data, Filler(data, pairs, shared=True, once=once), np.arange(len(data)))
    forward = backward = 0
    for number, chunk in enumerate(split.micro_batches):
        part = split.parts.get(number)
        count = len(np.unique([data.better[chunk], data.worse[chunk]])) if part is None else len(part.sequences)
        forward += count if part is None else 2 * count
        backward += count
    return forward, backward


def responses_table(sizes: tuple[int, ...] = (8, 20, 64), pairs: int = 8) -> str:
    """A line for each number of responses; a backward pass takes as long as two forward passes."""
    rows = []
    for size in sizes:
        two, split = passes(size, pairs, True), passes(size, pairs, False)
        costs = [forward + 2 * backward for forward, backward in (split, two)]
        cells = [f"{forward} + {backward}" for forward, backward in (split, two)]
        rows.append([f"{size} responses, {size * (size - 1) // 2} pairs", *cells, f"{costs[0] / costs[1]:.1f}"])
    columns = [f"{pairs} pairs a micro-batch", "pairs split: forward + backward", "now", "operations, times as many"]
    return f"### Responses computed in the step of one prompt\n\n{table(columns, rows)}\n"


if __name__ == "__main__":
    print(responses_table(), flush=True)
