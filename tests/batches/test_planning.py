"""The plan of an epoch: exactly the order and filling of version 0.3.0, and each step can be planned by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pairs import SIZES, preferences
from plan_of_0_3 import Filling, by_length, epoch_order, groups_of, lm_sequences

from rm_toolkit.batches.epoch_plan import EpochPlan
from rm_toolkit.batches.filling import Filler
from rm_toolkit.batches.first_fit import FirstFit
from rm_toolkit.batches.groups import PairGroups
from rm_toolkit.batches.replay_plan import ReplayPlan, join


@given(seed=st.integers(0, 10**6), size=st.sampled_from(SIZES), shared=st.booleans(), by_prompt=st.booleans())
@settings(max_examples=40, deadline=None)
def test_an_epoch_of_one_process_is_that_of_version_0_3(seed, size, shared, by_prompt):
    data = preferences(seed, num_prompts=9)
    pairs, tokens = size.get("pairs", 5), size.get("tokens")
    options = {"pairs_per_micro_batch": pairs, "tokens_per_micro_batch": tokens, "shared_layout": shared}
    plan = EpochPlan(data, pairs_per_step=7, seed=seed, group_by_prompt=by_prompt, **options)
    plan.filler.once = False  # prompts with more pairs than a micro-batch holds are now computed differently
    plan.set_epoch(1)
    order, filling = epoch_order(data.prompt if by_prompt else data.row, seed, 1), Filling(data, pairs, tokens, shared)
    for number, (step,) in enumerate(plan):
        expected = filling.fill(by_length(data, order[7 * number : 7 * number + 7]))
        assert [chunk.tolist() for chunk in step.micro_batches] == [chunk.tolist() for chunk in expected]
        assert [found.tolist() for found in step.lm_sequences] == lm_sequences(data, expected)
    assert number == len(plan) - 1


@pytest.mark.parametrize("shared", [True, False])
def test_large_groups_are_split_as_in_version_0_3(shared):
    data = preferences(3, num_prompts=3, most_responses=14)
    groups = groups_of(data.prompt)
    for tokens in (100, 300):
        found = Filler(data, 8, tokens, shared).fill(groups)
        expected = Filling(data, 8, tokens, shared).fill(groups)
        assert [batch.tolist() for batch in found] == [batch.tolist() for batch in expected]


@given(
    filled=st.lists(st.integers(1, 9), min_size=1, max_size=40), at_most=st.integers(-1, 10), begin=st.integers(0, 45)
)
def test_the_first_batch_with_room_is_found(filled, at_most, begin):
    fitting = FirstFit(len(filled))
    for batch, value in enumerate(filled):
        fitting.set(batch, 9)
        fitting.set(batch, value)
    expected = next((k for k, value in enumerate(filled) if k >= begin and value <= at_most), None)
    assert fitting.first(at_most, begin) == expected


def test_groups_are_listed_in_the_order_of_their_numbers_and_taken_in_any():
    groups = PairGroups.of(np.array([4, 1, 4, 9, 1]))
    assert groups.numbers.tolist() == [1, 4, 9] and groups.pairs.tolist() == [1, 4, 0, 2, 3]
    assert (
        groups.of_number(4).tolist() == [0, 2] and groups.of_number(5).tolist() == groups.of_number(10).tolist() == []
    )
    taken = groups.take(np.array([2, 0]))
    assert (taken.pairs.tolist(), taken.starts.tolist(), taken.numbers.tolist()) == ([3, 1, 4], [0, 1, 3], [9, 1])
    assert len(PairGroups.of(np.zeros(0, dtype=int))) == 0


def steps(plan):
    return [step and [chunk.tolist() for chunk in step.micro_batches] for (step,) in plan]


@pytest.mark.parametrize("kind", ["epoch", "replay"])
def test_skipped_steps_are_not_planned_and_leave_the_others_as_they_are(kind, monkeypatch):
    data = preferences(0, num_prompts=12)
    if kind == "epoch":
        plan = EpochPlan(data, pairs_per_step=5, pairs_per_micro_batch=2)
    else:
        general = preferences(1, num_prompts=3)
        plan = ReplayPlan(join(data, general), len(data), 0.4, pairs_per_step=5, pairs_per_micro_batch=2)
    plan.set_epoch(2)
    whole = steps(plan)
    planned = []
    original = plan.plan_step
    monkeypatch.setattr(plan, "plan_step", lambda pairs: planned.append(len(pairs)) or original(pairs))
    plan.set_epoch(2, skipped=3)
    assert steps(plan) == [None] * 3 + whole[3:]
    assert len(planned) == len(whole) - 3
    plan.set_epoch(2)
    assert steps(plan) == whole


def test_lengths_are_counted_once():
    data = preferences(0, num_prompts=3)
    assert data.lengths is data.lengths
    assert data.lengths.tolist() == [len(data.sequence(k)) for k in range(data.num_sequences)]
