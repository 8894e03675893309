"""How steps reach the training loop: planned in the loader process, ahead of time, in one array, and reproducibly."""

from __future__ import annotations

import dataclasses
import pickle
import threading

import numpy as np
import pytest
import torch
from made_pairs import preferences
from torch.utils.data import DataLoader

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.epoch_plan import EpochPlan, StepDataset, take_only
from rm_toolkit.batches.micro_batch import MicroBatch
from rm_toolkit.batches.shared_layout import SharedLayout
from rm_toolkit.batches.step_batches import StepBatches
from rm_toolkit.batches.step_loading import PlannedSteps, StepNumber, StepNumbers


COLLATORS = {
    "shared": PreferenceCollator(0, lm_loss_on="text", layout="shared"),
    "plain": PreferenceCollator(0, padding_side="left", lm_loss_on="completion"),
    "no LM loss": PreferenceCollator(0),
}


def plan_of(data, **options):
    plan = EpochPlan(data, pairs_per_step=12, pairs_per_micro_batch=4, shared_layout=True, **options)
    plan.filler.once = False  # many micro-batches; their contents do not matter
    return plan


def with_everything(seed=0):
    data = preferences(seed, num_prompts=12)
    pairs = len(data)
    return dataclasses.replace(
        data, margin=np.linspace(0, 1, pairs, dtype=np.float32), anchor_margin=np.full(pairs, 0.5, dtype=np.float32)
    )


def plain(value):
    """A field as plain Python values, without the private state of a layout."""
    if isinstance(value, SharedLayout):
        return value.segments.tolist(), str(value.segments.dtype), plain(value.needed)
    if isinstance(value, torch.Tensor):
        return value.tolist(), str(value.dtype), tuple(value.shape)
    return (value.tolist(), str(value.dtype)) if isinstance(value, np.ndarray) else value


def fields(batch):
    return {item.name: plain(getattr(batch, item.name)) for item in dataclasses.fields(MicroBatch)}


def contents(batches):
    return [fields(batch) for batch in batches]


@pytest.mark.parametrize("collator", COLLATORS.values(), ids=COLLATORS)
def test_a_step_is_the_same_in_one_array(collator):
    data = with_everything()
    plan = plan_of(data)
    made = StepDataset(data, collator)[plan.plan_step(plan.pairs_of_step(0, 0))]
    made.append(
        StepDataset(data, collator)[dataclasses.replace(plan.plan_step(np.arange(2)), micro_batches=[np.arange(0)])][0]
    )
    step = StepBatches(made)
    assert len(step) == len(made) > 3 and contents(step) == contents(made)
    assert sum(isinstance(value, torch.Tensor) for value in vars(step.packed()).values()) == 1
    again = pickle.loads(pickle.dumps(step))
    assert contents(again) == contents(made) and again[0] is again[0]
    assert contents(pickle.loads(pickle.dumps(again))) == contents(made), "also one that has not been read"


def test_adapters_travel_with_their_sequences():
    data = dataclasses.replace(preferences(1, num_prompts=4), adapter=None)
    data.adapter = np.repeat([0, 1], [3, data.num_sequences - 3])
    batch = PreferenceCollator(0, layout="shared").sequences(data, np.arange(data.num_sequences))
    (again,) = pickle.loads(pickle.dumps(StepBatches([batch])))
    assert fields(again) == fields(batch) and len(again.adapter_tokens) == 2


def loader(plan, collator, workers=0):
    steps = PlannedSteps(plan, collator, ahead=not workers)
    return DataLoader(steps, batch_sampler=StepNumbers(plan), collate_fn=take_only, num_workers=workers)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loader_gives_the_steps_of_the_plan_and_skips_those_that_are_done(workers):
    data, collator = with_everything(), COLLATORS["shared"]
    plan, expected = plan_of(data), plan_of(data)
    dataset = StepDataset(data, collator)
    for epoch, skipped in ((0, 0), (1, 2)):
        for each in (plan, expected):
            each.set_epoch(epoch, skipped)
        found = [step and contents(step) for step in loader(plan, collator, workers)]
        assert found == [step and contents(dataset[step]) for (step,) in expected] and len(found) == len(plan)
        assert found[:skipped] == [None] * skipped and found[skipped]


def test_the_next_step_is_made_while_one_is_computed():
    data = with_everything()
    plan = plan_of(data)
    steps = PlannedSteps(plan, COLLATORS["shared"], ahead=True)
    made, original = [], steps._make

    def make(step):
        made.append((step.number, threading.current_thread() is threading.main_thread()))
        return original(step)

    steps._make = make
    first = StepNumber(0, 0, 4, None)
    steps[first]
    steps._next[1].result()
    assert made == [(0, False), (1, False)]
    assert contents(steps[first._replace(number=1)]) == contents(original(first._replace(number=1)))
    steps._next[1].result()
    assert [number for number, _ in made] == [0, 1, 2], "no step is made twice"


def test_a_step_made_ahead_in_another_size_is_made_anew():
    data = with_everything()
    plan = plan_of(data)
    iterator = iter(loader(plan, COLLATORS["shared"]))
    assert max(len(batch.pairs) for batch in next(iterator)) > 2
    plan.resize(2, None)
    rest = list(iterator)
    assert max(len(batch.pairs) for step in rest for batch in step) == 2 and len(rest) == len(plan) - 1


def test_what_fails_ahead_of_time_is_heard_of_in_its_turn():
    data = with_everything()
    plan = plan_of(data)
    steps = PlannedSteps(plan, COLLATORS["shared"], ahead=True)
    original = steps._make

    def make(step):
        if step.number == 1:
            raise OSError("disk")
        return original(step)

    steps._make = make
    first = StepNumber(0, 0, 4, None)
    assert len(steps[first])
    with pytest.raises(OSError, match="disk"):
        steps[first._replace(number=1)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_in_pinned_memory_is_the_same():
    data = with_everything()
    plan = plan_of(data)
    steps = PlannedSteps(plan, COLLATORS["shared"], ahead=True, pin=True)
    step = steps[StepNumber(0, 0, 4, None)]
    assert all(batch.input_ids.is_pinned() and batch.pair_weight.is_pinned() for batch in step)
    expected = StepDataset(data, COLLATORS["shared"])[plan.plan_step(plan.pairs_of_step(0, 0))]
    assert contents(step) == contents(expected)
