"""`torch_compile` compiles layers in place; names, hooks, LoRA targets and rewards stay. Backends need no compiler."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from torch.nn import functional as F
from transformers.utils.import_utils import enable_tf32

from rm_toolkit.errors import InputError
from rm_toolkit.models import precision
from rm_toolkit.models.compilation import compile_layers, layers_of
from rm_toolkit.models.compute_copies import ComputeCopies
from rm_toolkit.models.precision import WithoutTF32
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.training.config import RewardModelConfig


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def names(model):
    """The names by which a model is used: keys, classes and hooks."""
    hooks = {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
    }
    return list(model.state_dict()), {name: type(module) for name, module in model.named_modules()}, hooks


def hidden_states(trainer):
    return [
        trainer.model.backbone(**batch.model_inputs()).last_hidden_state.detach()
        for batch in next(iter(trainer.get_train_dataloader()))
    ]


def test_compiling_changes_no_name_class_or_hook_and_wraps_nothing(make_trainer, rows):
    found = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        peft_config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        trainer = make_trainer(rows.ranked(4), peft_config=peft_config, batch_layout="shared", **options)
        layers = trainer.model.backbone.layers
        assert all((layer._compiled_call_impl is not None) == bool(options) for layer in layers)
        assert trainer.accelerator.prepare_model(trainer.model) is trainer.model  # not also compiled as a whole
        found.append(names(trainer.model))
    assert found[0] == found[1] and any("lora_A" in key for key in found[0][0])
    assert trainer.args.torch_compile_backend == "eager"


# From torch itself, where inductor imports it.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_compute_the_same_step(backend, make_trainer, rows, step_gradients, assert_same_gradients):
    found = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": backend}):
        trainer = make_trainer(rows.ranked(4), batch_layout="shared", **options)
        found.append((hidden_states(trainer), step_gradients(trainer)))
    (hidden, (loss, gradients)), (compiled_hidden, (compiled_loss, compiled_gradients)) = found
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    assert_same_gradients(compiled_gradients, gradients)
    for one, other in zip(hidden, compiled_hidden):
        # The trimmed MLP of the last layer skips unread tokens, yet all layers share one graph except for their hooks.
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["plain", "shared"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_in_bf16_is_the_run(layout, checkpointing, make_trainer, rows):
    losses = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        options |= {"batch_layout": layout, "gradient_checkpointing": checkpointing, "lm_loss_coef": 0.1}
        trainer = make_trainer(rows.ranked(12), eval_rows=rows.ranked(4, seed=1), bf16=True, **options)
        trainer.train()
        metrics = trainer.evaluate()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log] + [metrics["eval_loss"]])
    assert losses[1] == pytest.approx(losses[0], abs=2e-2)


@pytest.mark.slow
def test_a_compiled_layer_reads_the_copies_of_the_step(reward_model):
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    casts = []

    def forward_compiler(graph, inputs):
        for node in graph.graph.nodes:
            source = node.args[0] if node.args else None
            if node.target == torch.ops.aten._to_copy.default and source.op == "placeholder":
                casts.extend(size for size in [tuple(source.meta["val"].shape)] if len(size) == 2)
        return make_boxed_func(graph.forward)

    model = RewardModel.from_pretrained(reward_model())
    backend = aot_autograd(fw_compiler=forward_compiler)
    layers_of(model.backbone)[0].compile(dynamic=True, backend=backend)
    ids = torch.arange(3, 12)[None]
    rewards = []
    for copied in (False, True):
        casts.clear()
        torch._dynamo.reset()
        copies = ComputeCopies(model, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            if copied:
                with copies.used():
                    rewards.append(model.backbone(input_ids=ids).last_hidden_state)
            else:
                rewards.append(model.backbone(input_ids=ids).last_hidden_state)
        assert len(casts) == (0 if copied else 7)
    assert torch.equal(*rewards)


def test_layers_are_found_by_their_number_and_a_missing_backend_is_refused(reward_model, make_trainer, rows):
    model = RewardModel.from_pretrained(reward_model())
    assert layers_of(model.backbone) is model.backbone.layers
    model.backbone.layers = torch.nn.Sequential(*model.backbone.layers)
    with pytest.raises(InputError, match="`torch_compile` is true, but LlamaModel has no list of its 2 layers"):
        compile_layers(model.backbone, "eager")
    with pytest.raises(InputError, match=r"`torch_compile_backend` is 'inducto'; it must be one of .*'inductor'"):
        make_trainer(rows.pairs(2), torch_compile_backend="inducto")


# ---- TF32 ----


@pytest.mark.parametrize("tf32", [None, True])
def test_compiling_does_not_turn_on_tf32_unless_asked(tf32, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    # Each value is set only once per process.
    monkeypatch.setattr("transformers.training_args.enable_tf32", enable_tf32.__wrapped__)
    with precision.same_tf32():
        RewardModelConfig(str(tmp_path), torch_compile=True, tf32=tf32, use_cpu=True)
        assert precision.tf32_is_on() == bool(tf32)
    assert not precision.tf32_is_on()


def test_a_reward_without_tf32_is_a_product_and_a_sum_forward_and_backward():
    hidden, weight, bias = torch.randn(5, 8, requires_grad=True), torch.randn(1, 8, requires_grad=True), torch.randn(1)
    expected = F.linear(hidden, weight, bias)
    expected_gradients = torch.autograd.grad(expected.square().sum(), (hidden, weight))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        with WithoutTF32():
            found = F.linear(hidden, weight, bias)
            other = F.linear(hidden, torch.ones(2, 8))
        gradients = torch.autograd.grad(found.square().sum(), (hidden, weight))
    products = [event for event in profile.events() if event.name in ("aten::mm", "aten::addmm", "aten::bmm")]
    assert len(products) == 1 and other.shape == (5, 2)  # from the layer with two outputs
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, expected_gradients)
