"""
`use_liger_kernel`. If Liger is not installed, a stand-in patches a Llama as Liger 0.8.5 does: it replaces classes and
the RoPE function for the process, and changes layers of the instance. It records its arguments and computes the stock
numbers. The tests marked `gpu` need the real Liger.
"""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
from transformers.models.llama import modeling_llama

from rm_toolkit.errors import InputError
from rm_toolkit.models.liger import apply_liger, check_liger
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.training.stages import describe_engine


@pytest.fixture
def liger(monkeypatch):
    """The stand-in, which records the arguments of each call, and the RoPE calls that reach its kernel."""
    told = types.SimpleNamespace(calls=[], rotated=[])
    stock = modeling_llama.apply_rotary_pos_emb

    def rotate(query, *args, **kwargs):
        told.rotated.append(query.device.type)
        return stock(query, *args, **kwargs)

    def apply_to_llama(
        rope=True, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=True, swiglu=True, model=None
    ):
        told.calls.append((model, {"cross_entropy": cross_entropy, "fused": fused_linear_cross_entropy, "rope": rope}))
        if rope:
            modeling_llama.apply_rotary_pos_emb = rotate
        modeling_llama.LlamaRMSNorm = type("LigerRMSNorm", (modeling_llama.LlamaRMSNorm,), {})
        if fused_linear_cross_entropy:
            model.forward = None
        for layer in model.layers:
            layer.mlp.__dict__["forward"] = layer.mlp.forward

    module = types.ModuleType("liger_kernel.transformers.monkey_patch")
    module.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply_to_llama}
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("apply_rotary_pos_emb", "LlamaRMSNorm"):
        monkeypatch.setattr(modeling_llama, name, getattr(modeling_llama, name))  # restored afterwards
    return told


def test_the_backbone_is_changed_and_the_process_stays_stock(liger, reward_model):
    model, norm = RewardModel.from_pretrained(reward_model()), modeling_llama.LlamaRMSNorm
    ids = torch.arange(3, 12)[None]
    expected, keys = model.backbone(input_ids=ids).last_hidden_state, list(model.state_dict())
    apply_liger(model.backbone, {"swiglu": True})
    apply_liger(model.backbone)  # as after the trial
    assert [call[0] for call in liger.calls] == [model.backbone] * 2
    assert all(call[1] == {"cross_entropy": False, "fused": False, "rope": True} for call in liger.calls)
    assert "forward" in model.backbone.layers[0].mlp.__dict__ and list(model.state_dict()) == keys
    assert modeling_llama.LlamaRMSNorm is norm  # models that are made later are stock
    assert torch.equal(model.backbone(input_ids=ids).last_hidden_state, expected)
    assert liger.rotated == []  # on a CPU
    on_meta = [torch.empty(1, 2, 3, 8, device="meta") for _ in range(2)]
    modeling_llama.apply_rotary_pos_emb(
        *on_meta, torch.empty(1, 3, 8, device="meta"), torch.empty(1, 3, 8, device="meta")
    )
    assert liger.rotated == ["meta"]
    other = RewardModel.from_pretrained(reward_model())
    assert torch.equal(other.backbone(input_ids=ids).last_hidden_state, expected)


def test_what_liger_cannot_do_is_refused_in_words(liger, reward_model, make_trainer, rows, monkeypatch):
    model = RewardModel.from_pretrained(reward_model())
    with pytest.raises(InputError, match=r"turns on `fused_linear_cross_entropy`, a loss of causal LMs"):
        apply_liger(model.backbone, {"fused_linear_cross_entropy": True})
    with pytest.raises(InputError, match=r"has 'layernorm'; for 'llama' Liger knows 'rope', 'rms_norm', 'swiglu'"):
        apply_liger(model.backbone, {"layernorm": True})
    monkeypatch.setattr("rm_toolkit.training.trainer.check_liger", lambda device: None)
    model.backbone.config.model_type = "opt"
    with pytest.raises(InputError, match=r"Liger has no kernels for models of type 'opt'; it has for 'llama'"):
        make_trainer(rows.pairs(2), model, use_liger_kernel=True)
    assert liger.calls == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"liger-kernel, which is not installed: pip install .*\[gpu\]"):
        check_liger("cuda")


def test_a_run_on_a_cpu_is_refused_before_anything_is_loaded(make_trainer, rows):
    with pytest.raises(InputError, match="computes on a CPU, and Liger has no CPU kernels"):
        make_trainer(rows.pairs(2), "no/such/model", use_liger_kernel=True)


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_the_trial_sees_the_kernels_and_only_ours_acts(layout, liger, make_trainer, rows, monkeypatch):
    monkeypatch.setattr("rm_toolkit.training.trainer.check_liger", lambda device: None)

    def upstream(*args):
        raise AssertionError("transformers has applied its own")

    monkeypatch.setattr("transformers.trainer.apply_liger_kernel", upstream)
    options = {"batch_layout": layout, "use_liger_kernel": True, "liger_kernel_config": {"rope": False}}
    trainer = make_trainer(rows.ranked(4), max_steps=1, **options)
    changed = [call[0] for call in liger.calls]
    assert changed[-1] is trainer.model.backbone and len(changed) == (2 if layout == "shared" else 1)
    assert all(call[1]["rope"] is False for call in liger.calls)
    assert "mixed precision no, Liger's kernels; layout " in describe_engine(trainer)
    trainer.train()
    assert trainer.args.to_dict()["use_liger_kernel"] is True  # as recorded and reported


# ---- the real one ----

KERNELS = ("_rms_norm_forward_kernel", "_swiglu_forward_kernel", "_triton_rope")


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="needs liger-kernel")
@pytest.mark.parametrize("layout", ["plain", "shared"])
def test_a_step_runs_ligers_kernels_and_gives_the_rewards_of_stock_ones(
    layout, make_trainer, base_model, rows, tmp_path
):
    options = {"use_cpu": False, "bf16": False, "batch_layout": layout, "eval_rows": rows.ranked(6, seed=1)}
    base = base_model(hidden_size=64)  # heads of 32, as of real models
    stock = make_trainer(rows.ranked(8), base, **options)
    expected = stock.compute_rewards(stock.prepare_data(stock.eval_dataset, "eval"))
    trainer = make_trainer(rows.ranked(8), base, use_liger_kernel=True, **options)
    found = trainer.compute_rewards(trainer.prepare_data(trainer.eval_dataset, "eval"))
    assert found == pytest.approx(expected, abs=1e-4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
        torch.cuda.synchronize()
    names = {event.name for event in profile.events()}
    for kernel in KERNELS:
        assert any(kernel in name for name in names), f"{kernel} is not among {sorted(names)}"
    trainer.save_model(str(tmp_path / "saved"))
    assert trainer.reload_check(str(tmp_path / "saved")) > 0  # rewards from a fresh, unpatched process
