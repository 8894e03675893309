"""A step that runs out of memory is repeated in smaller micro-batches: same pairs, gradient, counts and draws."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from datasets import Dataset

from rm_toolkit.errors import InputError
from rm_toolkit.models.out_of_memory import is_out_of_memory
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.micro_batch_size import MicroBatchSize
from rm_toolkit.training.trainer import RewardModelTrainer


def run(
    base,
    folder,
    rows,
    *,
    tokens=None,
    pairs=None,
    from_step=0,
    late=False,
    resume=None,
    stream=False,
    dropout=0.0,
    **options,
):
    """
    Trains with a simulated limit: from step `from_step` on, a micro-batch with more than `tokens` tokens or `pairs`
    pairs runs out of memory. If `late`, the first micro-batch of a step does not, so that part of the gradient exists.
    """
    args = RewardModelConfig(
        output_dir=str(folder),
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        max_length=64,
        learning_rate=0.05,
        optim="sgd",
        **{
            "pairs_per_step": 8,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 1,
            "save_strategy": "no",
            **options,
        },
    )
    data = Dataset.from_list(rows)
    trainer = RewardModelTrainer(base, args, data.to_iterable_dataset() if stream else data)
    trainer.seen = []

    def limit(model, inputs):
        step, size = trainer.state.global_step, (inputs[0].input_ids.numel(), len(inputs[0].pairs))
        first = not trainer.seen or trainer.seen[-1][0] != step
        trainer.seen.append((step, *size))
        over = (tokens is not None and size[0] > tokens) or (pairs is not None and size[1] > pairs)
        if over and step >= from_step and not (late and first):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    trainer.model.register_forward_pre_hook(limit)
    embedding = trainer.model.base_classifier.get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: torch.nn.functional.dropout(output, dropout))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def assert_equal(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def losses(trainer):
    keys = ("loss", "accuracy", "margin", "reward_mean", "reward_std", "grad_norm")
    return [[log[key] for key in keys] for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize(("lm_loss_coef", "stream"), [(0.3, False), pytest.param(0.0, True, marks=pytest.mark.slow)])
def test_the_step_is_what_it_would_have_been(base_model, rows, tmp_path, capfd, lm_loss_coef, stream):
    data = rows.pairs(32)
    options = {"lm_loss_coef": lm_loss_coef, "stream": stream, "max_steps": 2, "pairs_per_step": 16}
    whole = run(base_model(), tmp_path / "b", data, **options)
    again = run(base_model(), tmp_path / "a", data, pairs=4, late=True, auto_find_batch_size=True, **options)
    printed = capfd.readouterr().out
    small = run(base_model(), tmp_path / "c", data, per_device_train_batch_size=4, **options)
    assert again.steps.size == MicroBatchSize(4)
    assert "step 1 ran out of memory: computed again" in printed and "up to 4 pairs (so far 8 pairs)" in printed
    assert_equal(weights(again), weights(small))  # bit for bit as if that had been the size from the first step on
    assert_equal(weights(again), weights(whole), rtol=1e-5, atol=1e-6)
    assert losses(again) == losses(small)
    torch.testing.assert_close(torch.tensor(losses(again)), torch.tensor(losses(whole)), rtol=1e-4, atol=1e-5)


def test_dropout_draws_as_if_the_step_had_begun_only_once(base_model, rows, tmp_path):
    options = {"pairs_per_step": 16, "dropout": 0.5}
    data = rows.pairs(32)
    again = run(base_model(), tmp_path / "a", data, pairs=4, late=True, auto_find_batch_size=True, **options)
    small = run(base_model(), tmp_path / "b", data, per_device_train_batch_size=4, **options)
    assert_equal(weights(again), weights(small))


@pytest.mark.slow
def test_micro_batches_by_tokens_are_halved_from_what_they_held(base_model, rows, tmp_path):
    trainer = run(
        base_model(), tmp_path, rows.pairs(8), tokens=250, auto_find_batch_size=True, max_tokens_per_batch=100_000,
        batch_layout="plain",
    )  # fmt: skip
    first = trainer.seen[0][1]
    assert trainer.steps.size.tokens in (first // 2, first // 4) and first > 250
    assert max(tokens for _, tokens, _ in trainer.seen[-3:]) <= 250


def test_a_resumed_run_takes_the_size_that_its_checkpoint_records(base_model, rows, tmp_path, capfd):
    options = {"auto_find_batch_size": True, "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}
    data = rows.pairs(24)
    whole = run(base_model(), tmp_path / "a", data, pairs=4, from_step=1, **options)
    identity = json.loads((tmp_path / "a/checkpoint-2/run_identity.json").read_text())
    assert identity["settings"]["micro_batch"] == "4 pairs"
    for name in ("b", "c"):
        shutil.copytree(tmp_path / "a/checkpoint-2", tmp_path / name / "checkpoint-2")
    capfd.readouterr()
    resumed = run(base_model(), tmp_path / "b", data, resume=str(tmp_path / "b/checkpoint-2"), **options)
    assert f"micro-batches of up to 4 pairs: as {tmp_path / 'b/checkpoint-2'} records" in capfd.readouterr().out
    assert_equal(weights(resumed), weights(whole))
    assert {pairs for _, _, pairs in resumed.seen} == {4}
    # Without the setting, the recipe's size is used, and the change is reported.
    other = run(base_model(), tmp_path / "c", data, resume=str(tmp_path / "c/checkpoint-2"), num_train_epochs=2)
    assert other.steps.size == MicroBatchSize(8)
    warning = capfd.readouterr().out.partition("\n")[0]
    assert "another micro-batch" in warning and "4 pairs" in warning and "8 pairs" in warning


@pytest.mark.slow  # starts a loader process
def test_steps_that_a_loader_process_had_planned_get_the_new_size_too(base_model, rows, tmp_path):
    options = {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2}
    again = run(base_model(), tmp_path / "a", rows.pairs(40), pairs=4, auto_find_batch_size=True, **options)
    small = run(base_model(), tmp_path / "b", rows.pairs(40), per_device_train_batch_size=4)
    assert_equal(weights(again), weights(small))


def test_what_does_not_fit_with_a_single_pair_ends_the_run(base_model, rows, tmp_path):
    with pytest.raises(InputError, match=r"step 1 does not fit into memory, even with a single pair.*max_length"):
        run(base_model(), tmp_path, rows.pairs(8), tokens=3, auto_find_batch_size=True)


def test_without_the_setting_the_run_ends_and_names_it(base_model, rows, tmp_path):
    with pytest.raises(InputError, match=r"step 1 does not fit .*up to 8 pairs. Set `auto_find_batch_size: true`"):
        run(base_model(), tmp_path, rows.pairs(8), pairs=4)


def test_other_errors_are_not_taken_for_it(base_model, rows, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("rm_toolkit.training.step_trainer.micro_batch_loss", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(base_model(), tmp_path, rows.pairs(8), auto_find_batch_size=True)
    assert not is_out_of_memory(ValueError("out of memory")) and not is_out_of_memory(RuntimeError("no memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))


@pytest.mark.parametrize("layout", [pytest.param("plain", marks=pytest.mark.slow), "shared"])
def test_an_evaluation_that_does_not_fit_is_computed_in_halves(base_model, rows, tmp_path, capfd, layout):
    args = RewardModelConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", max_length=64, auto_find_batch_size=True,
        batch_layout=layout, disable_tqdm=True,
    )  # fmt: skip
    trainer = RewardModelTrainer(base_model(), args, Dataset.from_list(rows.ranked(8)))
    expected, calls = trainer.compute_rewards(trainer.train_data), []

    def limit(model, inputs):
        calls.append(inputs[0].input_ids.numel())
        if calls[-1] > 250:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer.model.register_forward_pre_hook(limit)
    found = trainer.compute_rewards(trainer.train_data)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    said = capfd.readouterr().out.count("evaluation ran out of memory on process 0")
    assert said == sum(tokens > 250 for tokens in calls) > 0  # none as large is tried again
    trainer.retry.active = False
    with pytest.raises(torch.OutOfMemoryError):
        trainer.compute_rewards(trainer.train_data)


def test_sizes_are_read_as_they_are_written_and_halved_from_what_was_held():
    for size in (MicroBatchSize(8), MicroBatchSize(1, 4096)):
        assert MicroBatchSize.parse(str(size)) == size
    assert MicroBatchSize.parse("auto") is MicroBatchSize.parse(None) is None
    assert MicroBatchSize(8).halved(8) == MicroBatchSize(4) and MicroBatchSize(8).halved(5) == MicroBatchSize(2)
    assert MicroBatchSize(8, 4096).halved(1000) == MicroBatchSize(8, 500)
    assert MicroBatchSize(8, 4096).halved(5000) == MicroBatchSize(8, 2048)  # a single pair over the limit
