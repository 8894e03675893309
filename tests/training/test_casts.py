"""bf16 autocast: every weight is cast once per optimizer step, and the step is unchanged, bit for bit."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rm_toolkit.models.compute_copies import ComputeCopies
from rm_toolkit.training.engines import Engine
from rm_toolkit.training.weight_bytes import weight_bytes


class Casts(TorchDispatchMode):
    """Counts casts of the model's parameters to bf16, by name."""

    def __init__(self, model):
        super().__init__()
        self.names = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}
        self.count = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            name = self.names.get(args[0].data_ptr())
            if name is not None and args[0].dtype == torch.float32:
                self.count[name] = self.count.get(name, 0) + 1
        return function(*args, **kwargs)


def lora():
    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])


SETTINGS = {
    "plain": {"batch_layout": "plain"},
    "shared": {"batch_layout": "shared"},
    "lm loss": {"batch_layout": "shared", "lm_loss_coef": 0.1},
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "lora": {"peft_config": lora},
    "lora, checkpointing": {"peft_config": lora, "gradient_checkpointing": True},
}


@pytest.fixture
def bf16_trainer(make_trainer, rows, tmp_path):
    """A trainer in bf16 autocast, prepared as in `train`, with 4 micro-batches per step."""

    def make(name="plain", model=None, **config):
        options = {**SETTINGS[name], **config}
        peft_config = options.pop("peft_config", lambda: None)()
        options = {"bf16": True, "per_device_train_batch_size": 2, "pairs_per_step": 8, **options}
        trainer = make_trainer(
            rows.pairs(8), model, eval_rows=rows.pairs(6, seed=1), peft_config=peft_config, **options
        )
        if trainer.args.gradient_checkpointing:
            trainer.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs
            )
        trainer.model = trainer.accelerator.prepare_model(trainer.model)  # autocast, as in `train`
        trainer.is_in_train = True
        return trainer

    return make


def matrices(trainer):
    """Names of the weight matrices, without embedding and reward head."""
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.dim() == 2}
    return {name for name in names if "embed_tokens" not in name and "score" not in name}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_of_four_micro_batches_casts_every_weight_once_and_is_the_same_step(name, bf16_trainer, step_gradients):
    trainer = bf16_trainer(name)
    assert len(next(iter(trainer.get_train_dataloader()))) == 4
    with Casts(trainer.model) as casts:
        loss, gradients = step_gradients(trainer)
    assert casts.count == dict.fromkeys(matrices(trainer), 1)
    copies, trainer.copies = trainer.copies, None
    with Casts(trainer.model) as before:
        expected, expected_gradients = step_gradients(trainer)
    assert set(before.count) == set(casts.count) and min(before.count.values()) >= 4
    assert loss == expected and gradients.keys() == expected_gradients.keys()
    for key, gradient in gradients.items():
        assert torch.equal(gradient, expected_gradients[key]), key
    trainer.copies = copies
    with Casts(trainer.model) as again:
        step_gradients(trainer)
    trained = {key for key, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert again.count == dict.fromkeys(matrices(trainer) & trained, 1)  # frozen weights never again


def test_whole_runs_are_the_same_bit_for_bit(make_trainer, rows):
    found = []
    for cast_once in (True, False):
        options = {
            "bf16": True,
            "per_device_train_batch_size": 2,
            "pairs_per_step": 8,
            "lm_loss_coef": 0.1,
            "num_train_epochs": 1,
        }
        trainer = make_trainer(rows.pairs(24), eval_rows=rows.pairs(6, seed=1), eval_strategy="epoch", **options)
        assert trainer.copies is not None
        trainer.copies = trainer.copies if cast_once else None
        trainer.train()
        logs = [
            {k: v for k, v in log.items() if "runtime" not in k and "per_second" not in k}
            for log in trainer.state.log_history
        ]
        found.append((logs, {name: value.clone() for name, value in trainer.model.state_dict().items()}))
    assert found[0][0] == found[1][0] and any("eval_accuracy" in log for log in found[0][0])
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_an_evaluation_casts_every_weight_once_and_keeps_nothing(bf16_trainer):
    trainer = bf16_trainer("lora", per_device_eval_batch_size=1)
    trainer.is_in_train = False
    data = trainer.prepare_data(trainer.eval_dataset, "eval")
    with Casts(trainer.model) as casts:
        rewards = trainer.compute_rewards(data)
    assert casts.count == dict.fromkeys(matrices(trainer), 1)
    with Casts(trainer.model) as again:
        trainer.compute_rewards(data)
    assert again.count == casts.count  # outside training, frozen weights may change, for example in a merge
    trainer.is_in_train = True
    for _ in range(2):
        with Casts(trainer.model) as within:
            trainer.compute_rewards(data)
    assert within.count.keys() < casts.count.keys()  # only those of the adapter
    trainer.run_callback.on_train_end(trainer.args, trainer.state, trainer.control)
    with Casts(trainer.model) as after:
        trainer.compute_rewards(data)
    assert after.count == casts.count
    trainer.copies = None
    assert (trainer.compute_rewards(data) == rewards).all()


def test_copies_are_no_part_of_the_model_and_go_with_the_step(bf16_trainer):
    trainer = bf16_trainer("lora")
    model, seen = trainer.model, {}
    before = {module: dict(module.__dict__) for module in model.modules()}
    names = [list(model.state_dict()), [name for name, _ in model.named_parameters()]]
    with trainer.weights_cast_once():
        assert [list(model.state_dict()), [name for name, _ in model.named_parameters()]] == names
        layer = model.backbone.layers[0].mlp.up_proj
        assert layer.weight.dtype == torch.float32 and layer.weight_copy.dtype == torch.bfloat16
        hidden = torch.randn(3, layer.in_features)
        assert torch.equal(layer(hidden), nn.functional.linear(hidden, layer.weight))  # autocast is off
        seen = {name for name, module in model.named_modules() if "weight_copy" in module.__dict__}
    assert not any("score" in name or "embed" in name for name in seen) and len(seen) == 2 * (7 + 2 * 2)
    assert all(module.__dict__ == kept for module, kept in before.items())
    with pytest.raises(RuntimeError, match="out of memory"), trainer.weights_cast_once():
        raise RuntimeError("out of memory")
    assert all(module.__dict__ == kept for module, kept in before.items())


def test_a_layer_that_computes_something_else_is_left_alone(reward_model):
    from rm_toolkit.models.reward_model import RewardModel

    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = RewardModel.from_pretrained(reward_model())
    model.backbone.layers[0].mlp.up_proj.__class__ = Doubled
    with ComputeCopies(model, torch.bfloat16).used():
        assert "forward" not in model.backbone.layers[0].mlp.up_proj.__dict__
        assert "forward" in model.backbone.layers[1].mlp.up_proj.__dict__


def test_whole_weights_alone_are_copied_and_only_under_autocast(make_trainer, rows):
    once = {
        name: weight_bytes(Engine(*kind)).cast_once
        for name, kind in {
            "one": ("NO", 1, "cuda", "bf16"),
            "ddp": ("MULTI_GPU", 8, "cuda", "bf16"),
            "zero2": ("DEEPSPEED", 8, "cuda", "bf16", 2),
            "zero3": ("DEEPSPEED", 8, "cuda", "bf16", 3),
            "fsdp2": ("FSDP", 8, "cuda", "bf16", None, (), 2),
        }.items()
    }
    assert once == {"one": True, "ddp": True, "zero2": True, "zero3": False, "fsdp2": False}
    assert make_trainer(rows.pairs(4), bf16=False).copies is None


def test_layers_of_gpt2_read_copies_too(tmp_path):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    from rm_toolkit.models.reward_model import RewardModel
    from rm_toolkit.models.settings import RewardModelSettings

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32, num_labels=1, pad_token_id=0)
    model = RewardModel(GPT2ForSequenceClassification(config), RewardModelSettings(max_length=32))
    layer = model.backbone.h[0].mlp.c_fc
    with torch.no_grad():
        layer.bias.normal_()
    hidden = torch.randn(2, 3, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(hidden)
        expected_gradients = torch.autograd.grad(expected.float().square().sum(), (hidden, layer.weight, layer.bias))
        with ComputeCopies(model, torch.bfloat16).used():
            with Casts(model) as casts:
                found = layer(hidden)
            gradients = torch.autograd.grad(found.float().square().sum(), (hidden, layer.weight, layer.bias))
    assert not casts.count and torch.equal(found, expected)
    assert all(map(torch.equal, gradients, expected_gradients))


@pytest.mark.parametrize("layout", ["plain", "shared"])
def test_an_evaluation_before_training_computes_as_one_after_it(layout, make_trainer, rows, monkeypatch):
    """accelerate puts autocast around the model when `train` prepares it; an evaluation must not wait for that."""
    seen = []
    product = torch.nn.functional.linear

    def linear(input, weight, *rest):
        seen.append(torch.is_autocast_enabled("cpu"))
        return product(input, weight, *rest)

    trainer = make_trainer(
        rows.ranked(4), eval_rows=rows.ranked(3, seed=1), bf16=True, batch_layout=layout, learning_rate=0.0
    )
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    before, cast = trainer.evaluate(), seen.copy()
    trainer.train()
    seen.clear()
    after = trainer.evaluate()
    assert any(cast) and cast == seen  # the reward head is in fp32
    assert before["eval_loss"] == after["eval_loss"]
