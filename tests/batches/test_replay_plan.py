"""Steps with replayed general pairs: their share, their order, and what joining two datasets keeps."""

from __future__ import annotations

import dataclasses
from collections import Counter

import datasets
import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoConfig

from rm_toolkit.batches import mapped_arrays
from rm_toolkit.batches.epoch_plan import EpochPlan
from rm_toolkit.batches.joined_data import join_once
from rm_toolkit.batches.mapped_arrays import mapped_from
from rm_toolkit.batches.replay_plan import ReplayPlan, join, replayed_per_step
from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer


@pytest.fixture(scope="module")
def tokenized(base_model):
    def make(rows):
        tokenizer = load_tokenizer(base_model())
        prepare_tokenizer(tokenizer, AutoConfig.from_pretrained(base_model()), max_length=64)
        data = Dataset.from_list(rows)
        return tokenize_preferences(data, tokenizer, max_length=64, show_progress=False, tied_rows=True)

    return make


@pytest.fixture(scope="module")
def both(tokenized, rows):
    """21 customized and 10 general pairs, and their join."""
    customized, general = tokenized(rows.pairs(21)), tokenized(rows.pairs(10, seed=5, margin=lambda k: 0.5))
    return customized, general, join(customized, general)


def plan(both, epoch=0, fraction=0.25, num_processes=1, process_index=0, **options):
    made = ReplayPlan(
        both[2],
        len(both[0]),
        fraction,
        pairs_per_step=8,
        pairs_per_micro_batch=2,
        num_processes=num_processes,
        process_index=process_index,
        **options,
    )
    made.set_epoch(epoch)
    return made


def pairs_of(step):
    return np.concatenate(step.micro_batches)


def test_a_join_keeps_every_text_and_pair(both):
    customized, general, joined = both
    assert len(joined) == 31 and joined.num_sequences == customized.num_sequences + general.num_sequences
    for part, first in ((customized, 0), (general, 21)):
        for k in range(len(part)):
            for side in ("better", "worse"):
                expected = part.sequence(getattr(part, side)[k])
                assert joined.sequence(getattr(joined, side)[first + k]).tolist() == expected.tolist()
    assert not set(joined.row[:21]) & set(joined.row[21:]) and not set(joined.prompt[:21]) & set(joined.prompt[21:])
    assert joined.margin.tolist() == [0.0] * 21 + [0.5] * 10


def test_rows_that_are_all_tied_follow_their_pairs_into_the_join(tokenized, rows):
    tie = {"prompt": "river\n", "completions": ["stone", "garden"], "scores": [1.0, 1.0]}
    customized, general = (tokenized([*rows.ranked(2, seed=seed), tie]) for seed in (0, 1))
    joined = join(customized, general)
    assert joined.tied_rows.tolist() == [len(customized) - 1, len(joined) - 1]
    assert joined.unpaired.tolist() == customized.unpaired.tolist(), "replayed texts count for no LM loss"


def test_replayed_texts_count_for_no_lm_loss(both):
    joined = both[2]
    assert joined.lm_better[:21].all() and not joined.lm_better[21:].any() and not joined.lm_worse[21:].any()


@pytest.mark.parametrize("group_by_prompt", [True, False])
def test_every_step_holds_the_share_and_an_epoch_every_customized_pair_once(both, group_by_prompt):
    steps = [step for (step,) in plan(both, group_by_prompt=group_by_prompt)]
    assert len(steps) == len(plan(both)) == 4  # 21 customized pairs, 6 per step
    pairs = [pairs_of(step) for step in steps]
    assert [(int((p < 21).sum()), int((p >= 21).sum())) for p in pairs] == [(6, 2), (6, 2), (6, 2), (3, 1)]
    assert sorted(np.concatenate(pairs)[np.concatenate(pairs) < 21]) == list(range(21))
    assert [step.anchor_weight for step in steps] == [0.5, 0.5, 0.5, 1.0]
    for step, numbers in zip(steps, pairs):
        assert sum(step.pair_weight.values()) == pytest.approx(1)
        assert len(set(step.pair_weight.values())) == 1 and step.pair_weight.keys() == set(numbers.tolist())


def test_general_pairs_come_round_before_any_comes_again(both):
    """7 of 10 per epoch: after 10 epochs, each was used 7 times, and the 10 of a pass are all different."""
    series = []
    for epoch in range(10):
        for (step,) in plan(both, epoch):
            numbers = pairs_of(step)
            series.extend(np.sort(numbers[numbers >= 21]).tolist())
    assert len(series) == 70 and set(Counter(series).values()) == {7}
    # Where a pass ends within a step, both passes may contribute the same pair to it.
    assert all(len(set(series[k : k + 9])) == 9 for k in range(0, 70, 10))
    assert series[:10] != series[10:20]


def test_the_customized_order_is_that_of_a_run_without_replay(both):
    without = EpochPlan(both[0], pairs_per_step=6, pairs_per_micro_batch=2)
    for (step,), (replayed,) in zip(without, plan(both)):
        numbers = pairs_of(replayed)
        assert sorted(numbers[numbers < 21]) == sorted(pairs_of(step))


def test_processes_share_the_same_steps(both):
    alone = [sorted(pairs_of(step)) for (step,) in plan(both)]
    shares = [list(plan(both, num_processes=2, process_index=k)) for k in range(2)]
    together = [sorted(np.concatenate([pairs_of(a), pairs_of(b)])) for (a,), (b,) in zip(*shares)]
    assert together == alone


@pytest.mark.parametrize("pairs_per_step, fraction", [(4, 0.1), (4, 0.9), (1, 0.5)])
def test_a_step_too_small_for_both_kinds_is_refused(pairs_per_step, fraction):
    with pytest.raises(
        InputError, match=rf"`general_replay_fraction` is {fraction} of `pairs_per_step` {pairs_per_step}"
    ):
        replayed_per_step(pairs_per_step, fraction)


def test_data_joined_for_several_processes_is_mapped_from_one_file(both, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(mapped_arrays, "MAPPED_BYTES", 1)
    customized, general, wanted = both
    for _ in range(2):  # the first process stores it, the second reads it
        found = join_once(customized, general)
        assert mapped_from(found.ids) and mapped_from(found.offsets)
        for column in dataclasses.fields(wanted):
            np.testing.assert_array_equal(getattr(found, column.name), getattr(wanted, column.name))
    (stored,) = tmp_path.rglob("*.npz")
    assert mapped_from(found.ids[1:]) != mapped_from(found.ids) and mapped_from(found.ids[::2]) is None
    # A mapped array is identified by its file, anything else by its contents.
    again = join_once(found, general)
    assert again.num_sequences == wanted.num_sequences + general.num_sequences
    others = dataclasses.replace(customized, margin=np.ones(len(customized), dtype=np.float32))
    assert join_once(others, general).margin[0] == 1.0
    assert len(list(tmp_path.rglob("*.npz"))) == 3 and stored.exists()


def test_data_that_cannot_be_stored_is_joined_in_memory(both, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    (tmp_path / "file").touch()  # a folder cannot be created there
    found = join_once(*both[:2])
    assert mapped_from(found.ids) is None
    np.testing.assert_array_equal(found.ids, both[2].ids)
