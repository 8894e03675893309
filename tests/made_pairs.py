"""Pairs of random token ids, to test planning."""

from __future__ import annotations

import numpy as np

from rm_toolkit.batches.tokenization import TokenizedPreferences


# Limits of a micro-batch.
SIZES = [{"pairs": 3}, {"pairs": 8}, {"tokens": 60}, {"tokens": 150}, {"tokens": 400}]


def preferences(seed, num_prompts, most_responses=6, prompt_length=20):
    """Prompts with 2 to K responses of 1 to 40 tokens and some of their pairs; some have two rows or share texts."""
    rng = np.random.default_rng(seed)
    ids, better, worse, prompt, row = [], [], [], [], []
    for number in range(num_prompts):
        first, size = len(ids), int(rng.integers(2, most_responses + 1))
        start = rng.integers(3, 50, rng.integers(1, prompt_length))
        ids += [np.concatenate([start, rng.integers(3, 6, rng.integers(1, 41))]) for _ in range(size)]
        for i in range(size):
            for j in range(i + 1, size):
                if j == i + 1 or rng.random() < 0.4:
                    better.append(first + i)
                    worse.append(first + j)
                    prompt.append(2 * number)  # numbers with gaps: rows with only ties have a prompt but no pair
                    row.append(2 * number + int(rng.integers(2)))
    mixed = rng.permutation(len(better))
    lm = rng.random((2, len(better))) < 0.5
    return TokenizedPreferences(
        name="made",
        ids=np.concatenate(ids).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(piece) for piece in ids])]),
        completion_start=np.zeros(len(ids), dtype=np.int32),
        better=np.array(better, dtype=np.int32)[mixed],
        worse=np.array(worse, dtype=np.int32)[mixed],
        row=np.array(row, dtype=np.int32)[mixed],
        prompt=np.array(prompt, dtype=np.int32)[mixed],
        margin=None,
        lm_better=lm[0],
        lm_worse=lm[1],
        first_two=np.zeros((0, 2), dtype=np.int32),
    )
