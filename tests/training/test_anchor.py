"""Replay and anchor in training: what they add to the loss, that general ability is kept, and that they resume."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk

from rm_toolkit.errors import InputError
from rm_toolkit.losses import anchor_loss
from rm_toolkit.training.manifest import write_manifest
from rm_toolkit.training.run_identity import IDENTITY_NAME


def test_anchor_loss_worked_by_hand():
    """Margin 1 against the anchor's 0 (both texts win equally often): -(log s(1) + log s(-1)) / 2."""
    rewards = torch.tensor([2.0, 1.0, 0.0])
    better, worse = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2])
    loss = anchor_loss(rewards, better, worse, torch.tensor([0.0, math.nan, 2.0]))
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    entropy = -(sigmoid(2) * math.log(sigmoid(2)) + sigmoid(-2) * math.log(sigmoid(-2)))
    assert loss.tolist() == pytest.approx(
        [-(math.log(sigmoid(1)) + math.log(sigmoid(-1))) / 2, 0.0, entropy], abs=1e-6
    )


def test_anchor_loss_pulls_towards_the_other_model_from_both_sides():
    for start, sign in ((3.0, 1), (0.0, -1)):
        rewards = torch.tensor([start, 0.0], requires_grad=True)
        anchor_loss(rewards, torch.tensor([0]), torch.tensor([1]), torch.tensor([1.5])).sum().backward()
        assert math.copysign(1, rewards.grad[0].item()) == sign


@pytest.fixture
def make(make_trainer, rows):
    def build(**config):
        general = Dataset.from_list(rows.pairs(10, seed=5))
        return make_trainer(
            rows.pairs(18), replay_dataset=general, pairs_per_step=8, **{"general_replay_fraction": 0.25, **config}
        )

    return build


def test_at_the_start_the_anchor_is_the_model_itself(make, tmp_path):
    """Loss of the first step = mean ranking loss + coefficient x entropy of the model's own preferences."""
    trainer = make(anchor_coef=2.0, learning_rate=0.0, num_train_epochs=1)
    trainer.train()
    stored = load_from_disk(str(tmp_path / "run" / "anchor_rewards"))
    rewards = np.array(stored["reward"])
    assert rewards == pytest.approx(trainer.compute_rewards(trainer.replay_data), abs=1e-6)
    margin = rewards[trainer.replay_data.better] - rewards[trainer.replay_data.worse]
    assert np.nan_to_num(trainer.train_data.anchor_margin).tolist() == pytest.approx([0.0] * 18 + margin.tolist())
    first = next(log for log in trainer.state.log_history if "loss" in log)
    numbers = np.concatenate(next(iter(trainer.steps.plan))[0].micro_batches)
    own = 1 / (1 + np.exp(-margin[numbers[numbers >= 18] - 18]))
    entropy = -(own * np.log(own) + (1 - own) * np.log(1 - own)).mean()
    assert first["anchor_loss"] == pytest.approx(entropy, abs=1e-5)
    assert first["loss"] == pytest.approx(first["rank_loss"] + 2 * entropy, abs=1e-4)


def test_the_rank_loss_is_one_mean_over_both_kinds(make):
    trainer = make(learning_rate=0.0, num_train_epochs=1)
    trainer.train()
    rewards = trainer.compute_rewards(trainer.train_data)
    margin = rewards[trainer.train_data.better] - rewards[trainer.train_data.worse]
    losses = [log["rank_loss"] for log in trainer.state.log_history if "rank_loss" in log]
    plans = [np.concatenate(step.micro_batches) for (step,) in trainer.steps.plan]
    assert len(losses) == 3
    for loss, numbers in zip(losses, plans):
        assert loss == pytest.approx(np.log1p(np.exp(-margin[numbers])).mean(), abs=1e-5)


def test_off_it_costs_nothing(make):
    trainer = make(general_replay_fraction=0.0)
    assert trainer.replay_data is None and trainer.train_data is trainer.train_dataset
    assert not any("Anchor" in type(callback).__name__ for callback in trainer.callback_handler.callbacks)


def test_a_resumed_run_reads_the_anchor_of_its_start(make, tmp_path):
    options = {"anchor_coef": 1.0, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    options["learning_rate"] = 0.05
    whole = make(**options)
    whole.train()
    expected = {name: value.clone() for name, value in whole.model.state_dict().items()}
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    again = make(**options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert again.state.global_step == 6
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_resumed_run_refuses_the_anchor_of_other_pairs(make, make_trainer, rows, tmp_path):
    options = {"anchor_coef": 1.0, "num_train_epochs": 1, "save_strategy": "steps", "save_steps": 2}
    make(**options).train()
    other = make_trainer(
        rows.pairs(18),
        replay_dataset=Dataset.from_list(rows.pairs(10, seed=6)),
        pairs_per_step=8,
        general_replay_fraction=0.25,
        **options,
    )
    shutil.rmtree(tmp_path / "run" / "checkpoint-3", ignore_errors=True)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    with pytest.raises(InputError, match=r"other settings \(token ids of the replayed data\)"):
        other.train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / IDENTITY_NAME).unlink()  # as written up to version 0.2.1
    write_manifest(checkpoint, 1)
    with pytest.raises(InputError, match="has the rewards of other general pairs"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_replay_without_data_and_anchor_without_replay_are_refused(make_trainer, rows):
    with pytest.raises(InputError, match="there is nothing to replay"):
        make_trainer(rows.pairs(8), pairs_per_step=8, general_replay_fraction=0.25)
    with pytest.raises(InputError, match=r"`anchor_coef` is 1\.0 with `general_replay_fraction` 0"):
        make_trainer(rows.pairs(8), anchor_coef=1.0)
