"""The shared layout of a micro-batch: rewards and LM targets are read at the same tokens as in padded rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.tokenization import TokenizedPreferences


EOS = 2
PROMPT = list(range(50, 80))


@pytest.fixture
def data():
    """Text 0 beats 1 (same prompt) and 2 beats 3 (text 3 is cut on its left and shares nothing)."""
    texts = [[1, *PROMPT, 5, 6], [1, *PROMPT, 7], [1, *PROMPT[::-1], 8, EOS], [9, 10, 11]]
    return TokenizedPreferences(
        name="hand",
        ids=np.concatenate(texts).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(text) for text in texts])]),
        completion_start=np.array([31, 31, 31, 1]),
        better=np.array([0, 2]),
        worse=np.array([1, 3]),
        row=np.array([0, 1]),
        prompt=np.array([0, 1]),
        margin=None,
        lm_better=np.array([True, True]),
        lm_worse=np.array([True, False]),
        first_two=np.zeros((0, 2), dtype=np.int32),
        lm_target_eos=EOS,
    )


def collate(data, layout, lm_loss_on="text", pairs=(0, 1), lm_sequences=(0, 1, 2)):
    collator = PreferenceCollator(0, lm_loss_on=lm_loss_on, layout=layout)
    pairs = np.array(pairs, dtype=np.int64)
    return collator.pairs(data, pairs, np.full(len(pairs), 0.5), np.array(lm_sequences, dtype=np.int64), 0.25)


def test_one_row_without_padding_and_the_prompt_once(data):
    batch = collate(data, "shared")
    assert batch.input_ids.shape == (1, batch.num_tokens)
    assert batch.num_tokens == 31 + 2 + 1 + 33 + 3
    assert batch.attention_mask.shape == (1, 1, 1, 1)
    assert batch.model_inputs()["shared_layout"] is batch.layout


def test_a_moved_batch_takes_along_what_the_layers_read(data):
    batch = collate(data, "shared")
    assert batch.to(torch.device("meta")).layout.needed.device.type == "meta"
    assert batch.layout.needed.device.type == "cpu"
    assert batch.to(torch.device("cpu")).layout is batch.layout


def test_rewards_are_read_at_the_last_token_of_each_text(data):
    batch = collate(data, "shared")
    assert batch.input_ids[0, batch.reward_index].tolist() == [6, 7, EOS, 11]
    assert (batch.better.tolist(), batch.worse.tolist()) == ([0, 2], [1, 3])


@pytest.mark.parametrize("lm_loss_on", ["text", "completion"])
def test_lm_targets_are_those_of_the_plain_layout(data, lm_loss_on):
    plain, shared = (collate(data, layout, lm_loss_on) for layout in ("plain", "shared"))
    assert shared.lm_targets.tolist() == plain.lm_targets.tolist()
    assert shared.lm_text_index.tolist() == plain.lm_text_index.tolist()
    assert (shared.num_lm_texts, shared.lm_weight) == (plain.num_lm_texts, plain.lm_weight)
    found, expected = (batch.input_ids.flatten()[batch.lm_index].tolist() for batch in (shared, plain))
    assert found == expected
    # The prompt's tokens are predicted once for each text that begins with them.
    assert len(set(shared.lm_index.tolist())) < len(shared.lm_index) or lm_loss_on == "completion"


def test_an_empty_micro_batch_is_one_token_that_weighs_nothing(data):
    batch = collate(data, "shared", pairs=(), lm_sequences=())
    assert batch.input_ids.tolist() == [[0]]
    assert (len(batch.reward_index), batch.num_tokens, batch.lm_weight) == (0, 0, 0.0)
    assert batch.lm_index.tolist() == [0]
