"""Metrics are counts until the last division: worked by hand, and independent of the batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoConfig

from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.evaluation.metrics import preference_metrics
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
from rm_toolkit.scoring.rewards import length_batches


@pytest.fixture
def tokenized(base_model):
    def make(rows, name="set"):
        tokenizer = load_tokenizer(base_model())
        prepare_tokenizer(tokenizer, AutoConfig.from_pretrained(base_model()), max_length=64)
        data = tokenize_preferences(Dataset.from_list(rows), tokenizer, max_length=64, name=name, show_progress=False)
        return data

    return make


def pair(number, **columns):
    return {"prompt": f"{number} ", "chosen": "good", "rejected": "bad", **columns}


def test_counts_by_hand(tokenized):
    data = tokenized([pair(k) for k in range(4)])
    # differences: 2, -1, 0 (a tie), 0.5
    rewards = np.array([2.0, 0.0, 0.0, 1.0, 3.0, 3.0, 0.5, 0.0], dtype=np.float32)
    metrics = preference_metrics(rewards, data)
    assert metrics.num_pairs == 4 and metrics.num_ties == 1 and metrics.num_label_ties == 0
    assert metrics.accuracy == (2 + 0.5) / 4
    assert metrics.margin == (2 - 1 + 0 + 0.5) / 4
    losses = [math.log(1 + math.exp(-d)) for d in (2, -1, 0, 0.5)]
    assert metrics.loss == pytest.approx(sum(losses) / 4, abs=1e-9)
    assert metrics.first_two_accuracy == metrics.accuracy
    # Over the texts: mean 9.5 / 8, and the root of the mean square minus the squared mean.
    assert metrics.reward_mean == pytest.approx(9.5 / 8)
    assert metrics.reward_std == pytest.approx(((4 + 1 + 9 + 9 + 0.25) / 8 - (9.5 / 8) ** 2) ** 0.5)


def test_ranked_rows_count_all_pairs_but_first_two_only_the_two_best(tokenized):
    rows = [
        # sorted: third (2.0), first (1.0), second and fourth tied at 0
        {"prompt": "a ", "completions": ["one", "two", "three", "four"], "scores": [1.0, 0.0, 2.0, 0.0]},
        {"prompt": "b ", "completions": ["one", "two"], "scores": [0.0, 1.0]},
        {"prompt": "c ", "completions": ["one", "two"], "scores": [1.0, 1.0]},  # only a label tie
    ]
    data = tokenized(rows)
    # One reward per text, in the order in which the texts first appear.
    rewards = np.array([5.0, 1.0, 4.0, 4.5, 0.0, 7.0, 1.0, 2.0], dtype=np.float32)
    metrics = preference_metrics(rewards, data)
    # row a: three > one no (4 < 5), three > two yes, three > four no (4 < 4.5), one > two yes, one > four yes; b: yes
    assert (metrics.num_pairs, metrics.num_label_ties) == (6, 2)
    assert metrics.accuracy == pytest.approx(4 / 6)
    assert metrics.first_two_accuracy == pytest.approx(1 / 2)  # a: three against one, no; b: yes; c has none
    assert metrics.margin == pytest.approx((-1 + 3 - 0.5 + 4 + 0.5 + 7) / 6)


def test_ties_count_half_in_first_two_accuracy_too(tokenized):
    data = tokenized([pair(0), pair(1)])
    assert preference_metrics(np.array([1.0, 1.0, 2.0, 0.0], dtype=np.float32), data).first_two_accuracy == 0.75


def test_a_margin_enters_the_loss_and_nothing_else(tokenized):
    rewards = np.array([1.0, 0.0], dtype=np.float32)
    plain, shifted = (preference_metrics(rewards, tokenized([row])) for row in (pair(0), pair(0, margin=3.0)))
    assert shifted.loss == pytest.approx(math.log(1 + math.exp(2)))
    assert plain.loss == pytest.approx(math.log(1 + math.exp(-1)))
    assert (shifted.accuracy, shifted.margin) == (plain.accuracy, plain.margin) == (1.0, 1.0)


def test_swapping_all_pairs_mirrors_accuracy_and_margin(tokenized):
    generator = np.random.default_rng(0)
    rewards = generator.normal(size=20).astype(np.float32)
    rows = [pair(k) for k in range(10)]
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    one = preference_metrics(rewards, tokenized(rows))
    two = preference_metrics(rewards.reshape(-1, 2)[:, ::-1].reshape(-1), tokenized(swapped))
    assert two.accuracy == pytest.approx(1 - one.accuracy) and two.margin == pytest.approx(-one.margin)


def test_metrics_of_large_margins_are_finite(tokenized):
    metrics = preference_metrics(np.array([-4000.0, 4000.0], dtype=np.float32), tokenized([pair(0)]))
    assert metrics.loss == pytest.approx(8000.0)


def test_nothing_to_count_is_not_a_number(tokenized):
    data = tokenized([{"prompt": "a ", "completions": ["x", "y"], "scores": [1.0, 1.0]}])
    metrics = preference_metrics(np.zeros(2, dtype=np.float32), data)
    assert metrics.reward_mean == 0.0 == metrics.reward_std  # there are texts but no pairs
    assert math.isnan(metrics.accuracy) and metrics.num_pairs == 0 and metrics.num_label_ties == 1


def test_one_reward_a_sequence_is_wanted(tokenized):
    with pytest.raises(ValueError, match=r"`rewards` has shape \(3,\), but 'set' has 2 sequences"):
        preference_metrics(np.zeros(3, dtype=np.float32), tokenized([pair(0)]))


# ---- through the trainer ----


def test_metrics_do_not_depend_on_batch_size_or_padding(make_trainer, rows):
    """TRL's accuracy is a mean of batch means: seven pairs give a different value for each batch size."""
    sets = {"pairs": rows.pairs(7, seed=3), "ranked": rows.ranked(5)}
    found = []
    for batch_size in (1, 2, 5, 64):
        for padding_side in ("right", "left"):
            trainer = make_trainer(
                rows.pairs(2), eval_rows=sets, per_device_eval_batch_size=batch_size, padding_side=padding_side
            )
            metrics = trainer.evaluate()
            found.append(
                {key: value for key, value in metrics.items() if "per_second" not in key and "runtime" not in key}
            )
    assert 0 < found[0]["eval_pairs_accuracy"] < 1
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-5)


def test_every_named_set_has_all_its_metrics(make_trainer, rows):
    sets = {"pairs": rows.pairs(7, seed=3), "ranked": rows.ranked(5)}
    trainer = make_trainer(rows.pairs(2), eval_rows=sets)
    metrics = trainer.evaluate()
    names = ["accuracy", "first_two_accuracy", "margin", "loss", "num_pairs", "num_ties", "num_label_ties"]
    names += ["reward_mean", "reward_std"]
    for name in sets:
        assert {f"eval_{name}_{key}" for key in names} <= metrics.keys()
    assert metrics["eval_pairs_num_pairs"] == 7
    assert metrics["eval_ranked_num_pairs"] == 2 + 9 + 5 + 1 + 2 and metrics["eval_ranked_num_label_ties"] == 4
    assert "eval_accuracy" not in metrics  # no set overwrites another
    alone = trainer.evaluate("ranked")
    assert not [key for key in alone if "pairs_accuracy" in key]
    assert alone["eval_ranked_loss"] == pytest.approx(metrics["eval_ranked_loss"])
    unnamed = trainer.evaluate(Dataset.from_list(sets["pairs"]), metric_key_prefix="test")
    assert unnamed["test_accuracy"] == metrics["eval_pairs_accuracy"]


def test_evaluation_leaves_the_model_as_it_was(make_trainer, rows):
    trainer = make_trainer(rows.pairs(2), eval_rows=rows.pairs(3))
    trainer.model.train()
    trainer.evaluate()
    assert trainer.model.training
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


# ---- batches of similar length ----


@pytest.mark.parametrize("tokens_per_batch", [1, 10, 64, 10**6])
def test_length_batches_hold_every_sequence_once_and_no_more_than_asked(tokens_per_batch):
    lengths = np.random.default_rng(0).integers(1, 30, size=50)
    batches = length_batches(lengths, tokens_per_batch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(50))
    for batch in batches:
        assert len(batch) == 1 or lengths[batch].max() * len(batch) <= tokens_per_batch
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
