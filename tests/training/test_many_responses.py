"""A prompt with more pairs than a micro-batch holds: each response is computed at most twice, for the same step."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.epoch_plan import EpochPlan, StepDataset
from rm_toolkit.batches.filling import Filler
from rm_toolkit.batches.step_batches import StepBatches
from rm_toolkit.batches.tokenization import TokenizedPreferences
from rm_toolkit.training.retry import RandomState


def responses(batch):
    return len(batch.reward_index)


def one_step(make_trainer, data, **config):
    return make_trainer(data, **{"pairs_per_step": 200, "per_device_train_batch_size": 4, "max_length": 64, **config})


SETTINGS = {
    "ranking loss": {},
    "LM loss": {"lm_loss_coef": 0.3},
    "LM loss of plain rows": {"lm_loss_coef": 0.3, "batch_layout": "plain"},
    "by row, centered": {"pair_weighting": "prompt", "center_rewards_coefficient": 0.1},
    "tokens, shared": {"max_tokens_per_batch": 150},
    "tokens, padded": {"max_tokens_per_batch": 250, "batch_layout": "plain"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_step_is_that_of_all_pairs_at_once(
    name, make_trainer, rows, tmp_path, step_gradients, assert_same_gradients
):
    data = rows.ranked(5, sizes=(12, 3, 12, 2, 9))
    config = SETTINGS[name]
    parts = one_step(make_trainer, data, **config)
    (step,) = list(parts.get_train_dataloader())
    assert max(batch.num_parts for batch in step) > 1
    computed = sum(map(responses, step))
    loss, found = step_gradients(parts)
    counted = parts.meter.take()
    one = {"per_device_train_batch_size": 200, "max_tokens_per_batch": None}
    whole = one_step(make_trainer, data, **{**config, **one})
    (step,) = list(whole.get_train_dataloader())
    assert len(step) == 1 and responses(step[0]) == computed  # each response is in only one micro-batch
    expected_loss, expected = step_gradients(whole)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert_same_gradients(found, expected, tolerance=2e-6)
    assert counted == pytest.approx(whole.meter.take(), abs=1e-5)


def test_anchored_pairs_of_such_a_prompt_have_the_same_loss(make_trainer, rows, step_gradients):
    data = rows.ranked(3, sizes=(12, 12, 3))
    config = {"anchor_coef": 0.5, "general_replay_fraction": 0.5, "pairs_per_step": 400}
    general = rows.ranked(3, seed=1, sizes=(12, 9, 3))
    losses = []
    for size in (4, 400):
        trainer = one_step(
            make_trainer, data, replay_dataset=_dataset(general), per_device_train_batch_size=size, **config
        )
        own = len(trainer.train_data) - len(trainer.replay_data)
        margins = np.random.default_rng(0).normal(size=len(trainer.replay_data))
        trainer.train_data.anchor_margin = np.concatenate([np.full(own, np.nan), margins]).astype(np.float32)
        loss, _ = step_gradients(trainer)
        losses.append((loss, trainer.meter.take()["anchor_loss"]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and losses[0][1] > 0


def _dataset(rows):
    from datasets import Dataset

    return Dataset.from_list(rows)


def test_dropout_draws_in_the_second_pass_what_it_drew_in_the_first(make_trainer, rows, tmp_path):
    trainer = one_step(make_trainer, rows.ranked(3, sizes=(12, 3, 12)))
    embedding = trainer.model.base_classifier.get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: torch.nn.functional.dropout(output, 0.3))
    seen = {}
    trainer.model.register_forward_hook(
        lambda model, inputs, output: seen.setdefault(inputs[0].reward_grad is not None, []).append(output[0].detach())
    )
    (step,) = list(trainer.get_train_dataloader())
    several = [batch.num_parts > 1 for batch in step]
    trainer.training_step(trainer.model, step)
    ordinary = several.count(False)
    first, second = list(seen[False]), list(seen[True])
    assert len(second) == several.count(True) > 2 and len(first) == len(second) + ordinary
    torch.testing.assert_close(torch.cat(first[: len(second)]), torch.cat(second), rtol=0, atol=0)
    # Random numbers drawn after the step were not used in it.
    state = RandomState(torch.device("cpu"))
    trainer.training_step(trainer.model, step)
    assert not torch.equal(torch.cat(second), torch.cat(seen[True][len(second) :]))
    assert not torch.equal(state.on_host, torch.get_rng_state())


def texts_of_a_prompt(number):
    """A prompt of 40 tokens with responses of 5 to 30; the first response beats the others."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(3, 200, 40)
    ids = [np.concatenate([prompt, rng.integers(3, 200, rng.integers(5, 31))]) for _ in range(number)]
    count = number - 1
    return TokenizedPreferences(
        name="made",
        ids=np.concatenate(ids).astype(np.int32),
        offsets=np.cumsum([0, *map(len, ids)]),
        completion_start=np.full(number, 40, dtype=np.int32),
        better=np.zeros(count, dtype=np.int64),
        worse=np.arange(1, number),
        row=np.zeros(count, dtype=np.int64),
        prompt=np.zeros(count, dtype=np.int64),
        margin=None,
        lm_better=np.ones(count, dtype=bool),
        lm_worse=np.zeros(count, dtype=bool),
        first_two=np.zeros((0, 2), dtype=np.int32),
    )


def all_pairs(num_responses):
    """One prompt with all pairs of its responses."""
    data = texts_of_a_prompt(num_responses)
    data.better, data.worse = (np.array(side) for side in zip(*[
        (one, other) for one in range(num_responses) for other in range(one + 1, num_responses)
    ]))  # fmt: skip
    count = len(data.better)
    data.row = data.prompt = np.zeros(count, dtype=np.int64)
    data.lm_better, data.lm_worse = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    return data


def dealt(data, **limits):
    many = []
    pairs = np.arange(len(data.better))
    chunks = Filler(data, **limits).fill_groups(pairs, np.array([0, len(pairs)]), many)
    return chunks, many


def test_two_hundred_responses_are_computed_once_each():
    data = all_pairs(200)
    chunks, (prompt,) = dealt(data, pairs=16)
    pairs, parts = prompt.pairs, prompt.sequences
    assert not chunks and len(pairs) == 19_900
    assert sorted(np.concatenate(parts).tolist()) == list(range(200)) and max(map(len, parts)) == 32


@pytest.mark.parametrize("num_processes", [2, 5])
def test_all_parts_of_a_prompt_stand_on_one_process(num_processes):
    data = all_pairs(40)
    plans = [
        EpochPlan(
            data, pairs_per_step=780, pairs_per_micro_batch=4, num_processes=num_processes, process_index=process
        )
        for process in range(num_processes)
    ]
    steps = [next(iter(plan))[0] for plan in plans]
    assert {len(step.micro_batches) for step in steps} == {5} == {step.first_passes for step in steps}
    having = [step for step in steps if step.parts]
    assert len(having) == 1 and [len(chunk) for chunk in having[0].micro_batches] == [0, 0, 0, 0, 780]
    # Every text of the LM loss counts once, where it is computed.
    counted = [set(found.tolist()) for found in having[0].lm_sequences]
    assert all(found <= set(part.sequences.tolist()) for found, part in zip(counted, having[0].parts.values()))
    assert sum(map(len, counted)) == len(set().union(*counted)) == 39
    assert not any(map(len, [found for step in steps if not step.parts for found in step.lm_sequences]))


def test_parts_travel_from_a_loader_process_as_they_are():
    data = all_pairs(12)
    plan = EpochPlan(data, pairs_per_step=66, pairs_per_micro_batch=4)
    step = StepDataset(data, PreferenceCollator(0))[next(iter(plan))[0]]
    sent = pickle.loads(pickle.dumps(StepBatches(step)))
    assert [(batch.part, batch.num_parts, batch.first_passes) for batch in sent] == [(0, 2, 2), (1, 2, 0)]
    assert [batch.better.tolist() for batch in sent] == [batch.better.tolist() for batch in step]


def test_a_run_of_an_earlier_version_goes_on_as_it_began():
    plan = EpochPlan(all_pairs(12), pairs_per_step=66, pairs_per_micro_batch=4, version=1)
    ((step,),) = plan
    assert not step.parts and [len(chunk) for chunk in step.micro_batches] == [4] * 16 + [2]


def test_pieces_that_repeat_few_responses_stay():
    # 11 responses, one against the others: 10 pairs, in micro-batches of 8 and 2, compute 9 + 3 responses.
    chunks, many = dealt(texts_of_a_prompt(11), pairs=8)
    assert [len(chunk) for chunk in chunks] == [8, 2] and not many


def test_responses_that_fit_into_one_micro_batch_are_computed_in_a_single_pass():
    # 5 responses with all 10 pairs: two micro-batches of up to 8 pairs would compute 5 + 3; one computes 5.
    chunks, many = dealt(all_pairs(5), pairs=8)
    assert [len(chunk) for chunk in chunks] == [10] and not many


@pytest.mark.parametrize("shared", [True, False])
def test_parts_stay_within_the_limit_of_tokens(shared):
    data = all_pairs(60)
    _, (prompt,) = dealt(data, pairs=8, tokens=400, shared=shared)
    collator = PreferenceCollator(0, layout="shared" if shared else "plain")
    sizes = [collator.sequences(data, part).input_ids.numel() for part in prompt.sequences]
    assert max(sizes) <= 400 and min(sizes[:-1]) > 300
