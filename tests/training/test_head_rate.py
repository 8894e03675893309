"""`head_learning_rate`: the head's own learning rate, with each kind of model and optimizer, and when a run is resumed."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from torch.optim.lr_scheduler import LambdaLR

from rm_toolkit.errors import InputError
from rm_toolkit.models.heads import reward_head
from rm_toolkit.training.head_rate import OWN_RATE, check_head_rate
from rm_toolkit.training.resume_checks import apply_new_schedule


def weights(trainer):
    """The head, and the other trained weights."""
    head = {id(parameter) for parameter in reward_head(trainer.model.base_classifier).parameters()}
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    return [[p.detach().clone() for p in trained if (id(p) in head) == own] for own in (True, False)]


def moved(trainer):
    """By how much each of the two groups changes in training, at most."""
    before = weights(trainer)
    trainer.train()
    pairs = (zip(old, new) for old, new in zip(before, weights(trainer)))
    return [max((one - other).abs().max().item() for one, other in group) for group in pairs]


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, target_modules="all-linear")], ids=["full", "adapter"])
@pytest.mark.parametrize("architecture", ["llama", "bert", "roberta"])
def test_head_learns_at_its_own_rate(make_trainer, rows, base_model, base_encoder, architecture, peft_config):
    model = base_model() if architecture == "llama" else base_encoder(architecture)
    options = {"model": model, "peft_config": peft_config, "pooling_type": "average", "max_length": 40}
    rates = {"learning_rate": 0.0, "head_learning_rate": 1e-2, "max_steps": 1}
    head, others = moved(make_trainer(rows.pairs(4), **options, **rates))
    assert head == pytest.approx(1e-2, rel=1e-2) and others == 0.0  # AdamW's first step is the rate


def test_equal_rates_are_one_rate(make_trainer, rows):
    """With the same rate for both, the losses are those without a rate of its own."""
    losses = []
    for rate in (None, 1e-2):
        options = {"learning_rate": 1e-2, "head_learning_rate": rate, "weight_decay": 0.1, "num_train_epochs": 3}
        trainer = make_trainer(rows.pairs(8), **options)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        assert len(trainer.optimizer.param_groups) == (2 if rate is None else 3)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_schedule_multiplies_both_rates(make_trainer, rows):
    rates = {"learning_rate": 1e-3, "head_learning_rate": 1e-2, "lr_scheduler_type": "linear", "max_steps": 4}
    trainer = make_trainer(rows.pairs(16), **rates)
    trainer.create_optimizer_and_scheduler(4)
    for step in range(4):
        found = sorted({group["lr"] for group in trainer.optimizer.param_groups})
        assert found == pytest.approx([1e-3 * (1 - step / 4), 1e-2 * (1 - step / 4)])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()


def test_resumed_run_equals_the_whole_one(make_trainer, rows, tmp_path):
    options = {"learning_rate": 1e-3, "head_learning_rate": 3e-2, "num_train_epochs": 2, "lr_scheduler_type": "linear"}
    whole = make_trainer(rows.pairs(8), **options)
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / "saved")}
    make_trainer(rows.pairs(8), **options, **saving).train()
    again = make_trainer(rows.pairs(8), **options, **saving)
    shutil.rmtree(tmp_path / "saved" / "checkpoint-4")
    again.train(resume_from_checkpoint=str(tmp_path / "saved" / "checkpoint-2"))
    for one, other in zip(weights(whole), weights(again)):
        assert all(torch.equal(a, b) for a, b in zip(one, other))


def test_another_rate_on_resume_leaves_the_head_its_own():
    names = ("body", "head", "scaled")
    parameters = {name: torch.nn.Parameter(torch.zeros(1)) for name in names}
    groups = [{"params": [parameters["body"]], "lr": 1e-3}, {"params": [parameters["scaled"]], "lr": 2e-3}]
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    optimizer.add_param_group({"params": [parameters["head"]], "lr": 1e-2, OWN_RATE: True})
    scheduler = LambdaLR(optimizer, lambda step: 0.5)
    identity = SimpleNamespace(
        accepted={"learning_rate"}, changed=[{"setting": "learning_rate", "before": 1e-3, "after": 1e-4}]
    )
    apply_new_schedule(identity, scheduler, 1e-4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-5, 1e-4, 5e-3])


def test_an_optimizer_of_others_is_refused():
    described = SimpleNamespace(get_value=lambda name: {"type": "AdamW"} if name == "optimizer" else None)
    plain = SimpleNamespace(get_value=lambda name: None)
    check_head_rate(None, object(), described)
    check_head_rate(1e-2, None, plain)
    with pytest.raises(InputError, match="the DeepSpeed config has an `optimizer`"):
        check_head_rate(1e-2, None, described)
    with pytest.raises(InputError, match=r"`head_learning_rate` is 0\.01, .*`optimizers` has one"):
        check_head_rate(1e-2, object())
