"""`full_determinism`, and that a start in bf16 compiles nothing."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture
def settings_of_torch(monkeypatch):
    """Restores what `full_determinism` sets for the whole process."""
    for name in ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("FLASH_ATTENTION_DETERMINISTIC", "")
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    cudnn.deterministic, cudnn.benchmark = before[1:]


def test_full_determinism_reaches_torch_before_the_first_product(settings_of_torch, make_trainer, rows, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "rm_toolkit.training.step_trainer.choose_layout",
        lambda *args, **kwargs: asked.append(torch.are_deterministic_algorithms_enabled()) or ("plain", "none"),
    )
    make_trainer(rows.pairs(4), full_determinism=False)
    make_trainer(rows.pairs(4), full_determinism=True)
    assert asked == [False, True] and torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # cuBLAS reads it at the first product


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["plain", "shared"])
def test_two_runs_with_full_determinism_are_the_same_bit_for_bit(layout, settings_of_torch, make_trainer, rows):
    options = {"bf16": True, "full_determinism": True, "lm_loss_coef": 0.1, "per_device_train_batch_size": 2}
    options["use_cpu"] = False
    runs = []
    for _ in range(2):
        trainer = make_trainer(
            rows.ranked(4), eval_rows=rows.ranked(3, seed=1), batch_layout=layout, pairs_per_step=6, **options
        )
        trainer.train()
        metrics = trainer.evaluate()
        losses = [(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "loss" in log]
        runs.append((losses, metrics["eval_loss"], [value.clone() for value in trainer.model.state_dict().values()]))
    assert runs[0][:2] == runs[1][:2] and len(runs[0][0]) >= 2
    assert all(map(torch.equal, runs[0][2], runs[1][2]))


@pytest.mark.parametrize("use_cpu", [True, pytest.param(False, marks=pytest.mark.gpu)])
def test_a_start_in_bf16_compiles_nothing(use_cpu, make_trainer, rows):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trainer = make_trainer(rows.ranked(4), bf16=True, batch_layout="shared", use_cpu=use_cpu)
    trainer.model = trainer.accelerator.prepare_model(trainer.model)  # as `train` does: it puts autocast around it
    trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())))
    assert trainer.batch_layout == "shared"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0
