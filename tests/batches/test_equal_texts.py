"""Pairs whose texts are equal to the model: counted by cause, left out of training, ties in evaluation."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.epoch_plan import EpochPlan, StepDataset
from rm_toolkit.batches.equal_texts import describe_equal_pairs
from rm_toolkit.batches.tokenization import tokenize_preferences


MAX_LENGTH = 4
ROWS = [
    {"prompt": "ask ", "chosen": "yes well", "rejected": "no well"},
    {"prompt": "ask ", "chosen": "yes", "rejected": "yes"},  # equal as text
    {"prompt": "ask ", "chosen": "yes wow", "rejected": "yes oh"},  # unknown words: equal as token ids
    {"prompt": "", "chosen": "yes ask ask ask no", "rejected": "no ask ask ask no"},  # equal when cut
    {"prompt": "ask ", "chosen": "no", "rejected": "yes"},
]


@pytest.fixture(scope="module")
def tokenizer():
    words = ["[UNK]", "[PAD]", "ask", "yes", "no", "well"]
    backend = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", eos_token="[PAD]")


def read(rows, tokenizer, **options):
    return tokenize_preferences(
        Dataset.from_list(rows), tokenizer, max_length=MAX_LENGTH, show_progress=False, **options
    )


def test_they_are_counted_by_cause_and_ties_of_evaluation(tokenizer, caplog):
    data = read(ROWS, tokenizer)
    assert len(data) == 5 and data.equal_pairs.tolist() == [1, 1, 1] and data.num_equal_pairs == 3
    assert (data.better == data.worse).tolist() == [False, True, True, True, False], "one sequence: an exact tie"
    assert caplog.messages == [
        "dataset 'train': 3 of 5 pairs have two texts that are equal to the model (1 equal as text, 1 equal as token ids, "
        "1 equal after the cut to `max_length`); they count as ties. Check the data, and that the chat template renders the "
        "parts in which the answers differ. Check that the tokenizer tells their words apart. Raise `max_length`."
    ]
    longer = tokenize_preferences(Dataset.from_list(ROWS), tokenizer, max_length=5, show_progress=False)
    assert longer.equal_pairs.tolist() == [1, 1, 0]


def test_a_tenth_of_them_is_said_but_no_warning(tokenizer, caplog):
    caplog.set_level(logging.WARNING)
    data = read([ROWS[1], *[ROWS[0]] * 9], tokenizer, keep_equal=False)
    assert len(data) == 9 and not caplog.messages
    assert describe_equal_pairs("train", data.equal_pairs, len(data), False) == (
        "dataset 'train': 1 of 10 pairs have two texts that are equal to the model (1 equal as text); they are left out of "
        "training"
    )
    read([ROWS[1], *[ROWS[0]] * 8], tokenizer, keep_equal=False)
    assert len(caplog.messages) == 1 and "1 of 9 pairs" in caplog.text


def test_training_leaves_them_out_but_their_texts_keep_their_lm_loss(tokenizer):
    data = read(ROWS, tokenizer, keep_equal=False)
    assert data.row.tolist() == [0, 4] and data.equal_pairs.tolist() == [1, 1, 1]
    plan = EpochPlan(data, pairs_per_step=1, pairs_per_micro_batch=2, shuffle=False)
    first, last = (step for (step,) in plan)
    texts = [tokenizer.decode(data.sequence(k)) for numbers in first.lm_sequences for k in numbers]
    assert sorted(texts) == ["ask ask ask no", "ask yes", "ask yes [UNK]", "ask yes well"]
    assert first.lm_weight == 1 / 4 and first.pair_weight == {0: 1.0}
    assert [tokenizer.decode(data.sequence(k)) for numbers in last.lm_sequences for k in numbers] == ["ask no"]
    batches = StepDataset(data, PreferenceCollator(1, lm_loss_on="text"))[first]
    assert sum(batch.num_alone for batch in batches) == 3 and sum(len(batch.pairs) for batch in batches) == 1


def test_weighed_by_rows_they_stay_in_the_mean_of_their_row(tokenizer):
    """As in the original work: an equal pair adds -log sigmoid(0) to the mean and has no gradient."""
    rows = [{"prompt": "ask ", "completions": ["yes", "no", "no"], "scores": [2.0, 1.0, 0.0]}]
    data = read(rows, tokenizer, tied_rows=True)
    assert len(data) == 3 and data.equal_pairs.tolist() == [1, 0, 0]
    ((step,),) = EpochPlan(data, pairs_per_step=3, pairs_per_micro_batch=3, pair_weighting="prompt")
    assert list(step.pair_weight.values()) == pytest.approx([1 / 3] * 3)
    equal = np.flatnonzero(data.better == data.worse)
    assert len(equal) == 1 and "stay in the mean" in describe_equal_pairs("a", data.equal_pairs, 3, True, True)
