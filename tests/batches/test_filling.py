"""Micro-batches filled by pairs or tokens: no pair lost, no limit exceeded, and the pairs of a prompt together."""

from __future__ import annotations

import numpy as np
import pytest

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.epoch_plan import EpochPlan, StepDataset
from rm_toolkit.batches.filling import Filler
from rm_toolkit.batches.tokenization import TokenizedPreferences


def preferences(group_sizes, seed=0, prompt_length=40):
    """A group of K texts for each size K; the first text beats the others. Responses have 5 to 30 tokens."""
    rng = np.random.default_rng(seed)
    ids, better, worse, prompt = [], [], [], []
    for number, size in enumerate(group_sizes):
        first = len(ids)
        start = rng.integers(3, 200, prompt_length)
        ids += [np.concatenate([start, rng.integers(3, 200, rng.integers(5, 31))]) for _ in range(size)]
        better += [first] * (size - 1)
        worse += range(first + 1, first + size)
        prompt += [number] * (size - 1)
    count = len(better)
    return TokenizedPreferences(
        name="made",
        ids=np.concatenate(ids).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(piece) for piece in ids])]),
        completion_start=np.full(len(ids), prompt_length, dtype=np.int32),
        better=np.array(better),
        worse=np.array(worse),
        row=np.array(prompt),
        prompt=np.array(prompt),
        margin=None,
        lm_better=np.ones(count, dtype=bool),
        lm_worse=np.zeros(count, dtype=bool),
        first_two=np.zeros((0, 2), dtype=np.int32),
    )


def groups_of(data):
    return [np.flatnonzero(data.prompt == number) for number in range(data.prompt.max() + 1)]


def tokens(data, pairs, layout):
    sequences = np.unique(np.concatenate([data.better[pairs], data.worse[pairs]]))
    return PreferenceCollator(0, layout=layout).sequences(data, sequences).input_ids.numel()


@pytest.mark.parametrize("layout", ["plain", "shared"])
@pytest.mark.parametrize("limit", [150, 400, 1000])
def test_batches_by_tokens_stay_below_the_limit_and_hold_every_pair_once(layout, limit):
    data = preferences([5, 2, 3, 9, 2, 5, 5, 4])
    batches = Filler(data, pairs=8, tokens=limit, shared=layout == "shared").fill(groups_of(data))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(data)))
    assert all(tokens(data, pairs, layout) <= limit for pairs in batches)


def test_a_group_that_fits_is_not_split_and_one_that_does_not_is():
    data = preferences([5, 5, 21])
    batches = Filler(data, pairs=8, tokens=300, shared=True).fill(groups_of(data))
    holding = [[k for k, batch in enumerate(batches) if (data.prompt[batch] == number).any()] for number in range(3)]
    assert [len(where) for where in holding[:2]] == [1, 1]
    assert len(holding[2]) > 1


def test_the_shared_layout_needs_fewer_batches():
    data = preferences([5] * 12)
    counts = {
        shared: len(Filler(data, pairs=8, tokens=600, shared=shared).fill(groups_of(data))) for shared in (True, False)
    }
    assert counts[True] < counts[False]


def test_filling_by_pairs_keeps_groups_together_and_leaves_no_room_that_a_later_one_fits():
    data = preferences([4, 4, 3, 3])  # 3, 3, 2 and 2 pairs
    batches = Filler(data, pairs=5).fill(groups_of(data))
    assert [data.prompt[batch].tolist() for batch in batches] == [[0, 0, 0, 2, 2], [1, 1, 1, 3, 3]]


def test_a_single_pair_over_the_limit_is_a_batch():
    data = preferences([2, 2])
    assert [len(batch) for batch in Filler(data, pairs=8, tokens=10, shared=True).fill(groups_of(data))] == [1, 1]


@pytest.mark.parametrize("num_processes", [1, 3])
def test_steps_by_tokens_have_exactly_n_pairs_and_as_many_micro_batches_everywhere(num_processes):
    data = preferences([5, 2, 3, 4, 2, 5, 6, 3])
    dataset = StepDataset(data, PreferenceCollator(0, layout="shared"))
    steps = [
        [
            dataset[step]
            for (step,) in EpochPlan(
                data,
                pairs_per_step=7,
                pairs_per_micro_batch=4,
                num_processes=num_processes,
                process_index=process,
                tokens_per_micro_batch=200,
                shared_layout=True,
            )
        ]
        for process in range(num_processes)
    ]
    rows = []
    for step in zip(*steps):
        assert len({len(process) for process in step}) == 1
        batches = [batch for process in step for batch in process]
        assert sum(float(batch.pair_weight.sum()) for batch in batches) == pytest.approx(1)
        rows.append(sum(len(batch.better) for batch in batches))
    assert rows == [7, 7, 7, len(data) - 21]
