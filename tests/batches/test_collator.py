"""Collates pairs into a micro-batch: each distinct text once, padded on either side, with its LM targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.tokenization import TokenizedPreferences


PAD, EOS = 9, 2


@pytest.fixture
def data():
    """Three texts of 4, 2 and 3 tokens; text 0 beats the others. The completions begin at 2, 1 and 1."""
    return TokenizedPreferences(
        name="hand",
        ids=np.array([1, 5, 6, 7, 1, 5, 1, 8, EOS], dtype=np.int32),
        offsets=np.array([0, 4, 6, 9]),
        completion_start=np.array([2, 1, 1]),
        better=np.array([0, 0]),
        worse=np.array([2, 1]),
        row=np.array([0, 1]),
        prompt=np.array([0, 0]),
        margin=np.array([0.5, 0.0], dtype=np.float32),
        lm_better=np.array([True, True]),
        lm_worse=np.array([True, False]),
        first_two=np.array([[0, 2], [0, 1]]),
        lm_target_eos=EOS,
    )


def collate(data, pairs=(0, 1), lm_sequences=(0, 2), **options):
    collator = PreferenceCollator(PAD, **options)
    pairs = np.array(pairs, dtype=np.int64)
    return collator.pairs(data, pairs, np.full(len(pairs), 0.5), np.array(lm_sequences, dtype=np.int64), 0.25)


def test_each_text_stands_once_and_pairs_point_at_texts(data):
    batch = collate(data)
    assert batch.input_ids.tolist() == [[1, 5, 6, 7], [1, 5, PAD, PAD], [1, 8, EOS, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert (batch.better.tolist(), batch.worse.tolist()) == ([0, 0], [2, 1])
    assert batch.margin.tolist() == [0.5, 0.0]
    assert (batch.rows, batch.num_tokens) == ([0, 1], 9)


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("pad_to_multiple_of", [None, 3])
def test_the_reward_is_read_at_the_last_token(data, padding_side, pad_to_multiple_of):
    batch = collate(data, padding_side=padding_side, pad_to_multiple_of=pad_to_multiple_of)
    assert batch.input_ids.shape == (3, 6 if pad_to_multiple_of else 4)
    assert batch.input_ids.flatten()[batch.reward_index].tolist() == [7, 5, EOS]
    assert batch.input_ids[batch.attention_mask.bool()].tolist() == data.ids.tolist()


def test_left_padding_counts_positions_from_the_first_token(data):
    batch = collate(data, padding_side="left")
    assert batch.input_ids.tolist() == [[1, 5, 6, 7], [PAD, PAD, 1, 5], [PAD, 1, 8, EOS]]
    positions = [row[mask.bool()].tolist() for row, mask in zip(batch.position_ids, batch.attention_mask)]
    assert positions == [[0, 1, 2, 3], [0, 1], [0, 1, 2]]


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize(
    "lm_loss_on, expected",
    [
        # (text, predicting token, target); the last target of a text that does not end in EOS is EOS
        ("text", [(0, 1, 5), (0, 5, 6), (0, 6, 7), (0, 7, EOS), (1, 1, 8), (1, 8, EOS)]),
        ("completion", [(0, 5, 6), (0, 6, 7), (0, 7, EOS), (1, 1, 8), (1, 8, EOS)]),
    ],
)
def test_lm_targets_are_the_next_tokens(data, lm_loss_on, expected, padding_side):
    batch = collate(data, lm_loss_on=lm_loss_on, padding_side=padding_side)
    predicting = batch.input_ids.flatten()[batch.lm_index]
    assert list(zip(batch.lm_text_index.tolist(), predicting.tolist(), batch.lm_targets.tolist())) == expected
    assert (batch.num_lm_texts, batch.lm_weight) == (2, 0.25)


def test_lm_targets_find_their_text_in_any_order_of_the_sequences(data):
    batch = PreferenceCollator(PAD, lm_loss_on="text").sequences(data, np.array([2, 0, 1]), np.array([0, 1]))
    predicting = batch.input_ids.flatten()[batch.lm_index]
    assert predicting.tolist() == [1, 5, 6, 7, 1, 5]
    assert batch.lm_targets.tolist() == [5, 6, 7, EOS, 5, EOS]


def test_no_lm_loss_builds_no_targets(data):
    assert collate(data).lm_index is None


def test_without_texts_of_the_lm_loss_one_token_takes_part_that_weighs_nothing(data):
    batch = collate(data, lm_sequences=(), lm_loss_on="text")
    assert len(batch.lm_index) == 1 and batch.lm_weight == 0


def test_an_empty_micro_batch_is_one_token_without_pairs(data):
    batch = collate(data, pairs=(), lm_sequences=(), lm_loss_on="text")
    assert batch.input_ids.shape == (1, 1)
    assert len(batch.better) == len(batch.worse) == len(batch.reward_index) == batch.num_tokens == 0


def test_a_micro_batch_moves_as_a_whole(data):
    batch = collate(data, lm_loss_on="text").to(torch.device("meta"))
    assert all(value.is_meta for value in vars(batch).values() if isinstance(value, torch.Tensor))
    assert batch.rows == [0, 1] and batch.num_lm_texts == 2
