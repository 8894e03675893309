"""`max_tokens_per_batch: auto`: the largest fitting size is found, recorded and reused; the search leaves no trace."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from trl import TrlParser

from rm_toolkit.errors import InputError
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.training import auto_size, trial
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.engines import read_engine
from rm_toolkit.training.micro_batch_size import MicroBatchSize
from rm_toolkit.training.plan.memory_tracker import PeakTracker
from rm_toolkit.training.token_search import CudaMemory, search_tokens
from rm_toolkit.training.trainer import RewardModelTrainer
from rm_toolkit.training.trial import Trial, longest_text


@given(
    most=st.integers(1, 2000),
    fixed=st.integers(0, 500),
    each=st.integers(1, 50),
    budget=st.integers(1, 20_000),
    off=st.sampled_from([None, 0.3, 0.8, 1.0, 1.25, 4.0]),
    oom_above=st.sampled_from([1.0, 1.2, 100.0]),
)
def test_the_number_found_was_tried_and_hardly_more_would_fit(most, fixed, each, budget, off, oom_above):
    unit, tried = 64, []

    def try_step(tokens):
        taken = fixed + each * (tokens // unit)
        tried.append((tokens, taken))
        return taken if taken <= oom_above * budget else None

    predict = None if off is None else lambda tokens: fixed + off * each * (tokens / unit)
    found = search_tokens(unit=unit, most=most, budget=budget, try_step=try_step, predict=predict)
    best = min(most, (budget - fixed) // each)
    assert found.tokens % unit == 0 and found.trials == len(tried) <= 6
    if best < 1:
        assert found.tokens == unit and found.peak is None
    else:
        assert (found.tokens, found.peak) in tried and found.peak <= budget and found.tokens <= best * unit
        wrong = off is None or not 0.5 < off < 2
        assert found.tokens >= (0.4 if wrong else 0.9) * best * unit - unit
        if off == 1.0:
            assert found.tokens >= 0.95 * best * unit - unit and found.trials <= 2


class Memory:
    """A device on which a micro-batch takes 10 bytes per token, and on which too many tokens do not fit."""

    def __init__(self, budget, out_of_memory_above=10**9):
        self.bytes, self.above, self.trials = budget, out_of_memory_above, []

    def budget(self):
        return self.bytes

    def begin(self):
        self.trials.append(0)

    def peak(self):
        return 10 * self.trials[-1]

    def watch(self, model):
        def count(module, inputs):
            if self.trials and not self.trials[-1]:
                self.trials[-1] = inputs[0].input_ids.numel()
                if self.trials[-1] > self.above:
                    raise torch.OutOfMemoryError("CUDA out of memory.")

        model.register_forward_pre_hook(count)


def make(base, folder, rows, monkeypatch, memory=None, settings=None, **options):
    args = RewardModelConfig(
        output_dir=str(folder),
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        max_length=64,
        learning_rate=0.05,
        **{"use_cpu": True, "pairs_per_step": 16, "per_device_train_batch_size": 2, "save_steps": 1, **options},
    )
    trainer = RewardModelTrainer(base, args, Dataset.from_list(rows), settings=settings)
    if memory is not None:
        memory.watch(trainer.model)
        monkeypatch.setattr(auto_size, "memory_of", lambda device: memory)
    return trainer


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def assert_equal(one, other):
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_the_largest_that_fits_is_found_recorded_and_taken_again(base_model, rows, tmp_path, monkeypatch, capfd):
    data = rows.pairs(16)
    settings = RewardModelSettings(max_length=64, lineage=[{"stage": "grft"}])
    memory = Memory(budget=5000, out_of_memory_above=520)
    options = {"max_tokens_per_batch": "auto", "num_train_epochs": 2}
    trainer = make(base_model(), tmp_path / "a", data, monkeypatch, memory, settings, **options)
    longest = longest_text(trainer.data.joined, 64)
    assert longest == max(len(trainer.data.joined.sequence(k)) for k in range(trainer.data.joined.num_sequences))
    trainer.train()
    tokens = trainer.steps.size.tokens
    assert tokens == 500 // (2 * longest) * 2 * longest and tokens in memory.trials
    printed = capfd.readouterr().out
    assert printed.count(f"micro-batches of up to {tokens} tokens: a trial took 0.0 GiB") == 1
    # Training is as with that number in the recipe: the trials change neither weights nor random states.
    told = make(base_model(), tmp_path / "b", data, monkeypatch, max_tokens_per_batch=tokens, num_train_epochs=2)
    told.train()
    assert_equal(weights(trainer), weights(told))
    folder = tmp_path / "a/checkpoint-1"
    identity = json.loads((folder / "run_identity.json").read_text())
    assert identity["settings"]["micro_batch"] == f"{tokens} tokens"
    assert json.loads((folder / "rm_toolkit.json").read_text())["lineage"][-1]["micro_batch"] == f"{tokens} tokens"

    shutil.copytree(folder, tmp_path / "c/checkpoint-1")
    other = Memory(budget=10**6)
    resumed = make(base_model(), tmp_path / "c", data, monkeypatch, other, settings, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "c/checkpoint-1"))
    assert resumed.steps.size.tokens == tokens and other.trials == []
    assert f"{tokens} tokens: as {tmp_path / 'c/checkpoint-1'} records" in capfd.readouterr().out
    assert_equal(weights(resumed), weights(trainer))


def test_where_the_plan_cannot_follow_a_model_trials_alone_find_it(monkeypatch):
    class Unpredictable:
        def __init__(self, *parts):
            pass

        def prediction(self):
            raise NotImplementedError("no such operation on tensors without values")

        def run(self, tokens, memory, compute):
            return tokens

    monkeypatch.setattr(trial, "Trial", Unpredictable)
    monkeypatch.setattr(trial, "read_engine", lambda accelerator: None)
    args, accelerator = SimpleNamespace(pairs_per_step=16), SimpleNamespace(num_processes=2)
    assert trial.find_tokens(None, args, accelerator, "plain", 10, None, Memory(budget=119)).tokens == 100
    # No micro-batch is larger than a process's share of a step.
    assert trial.find_tokens(None, args, accelerator, "plain", 10, None, Memory(budget=10**6)).tokens == 8 * 20


@pytest.mark.slow
def test_where_nothing_fits_the_smallest_is_taken_and_said(base_model, rows, tmp_path, monkeypatch, capfd):
    memory = Memory(budget=10)
    trainer = make(
        base_model(), tmp_path, rows.pairs(4), monkeypatch, memory, max_tokens_per_batch="auto", save_strategy="no"
    )
    trainer.choose_micro_batches(None)
    size = trainer.steps.size
    assert size.tokens == 2 * longest_text(trainer.data.joined, 64)
    assert "not even one pair of the longest texts fits" in capfd.readouterr().out


def test_on_a_cpu_auto_counts_pairs_as_ever(base_model, rows, tmp_path, monkeypatch, capfd):
    data = rows.pairs(16)
    auto = make(base_model(), tmp_path / "a", data, monkeypatch, max_tokens_per_batch="auto", save_strategy="no")
    auto.choose_micro_batches(None)
    said = "micro-batches of up to 2 pairs: `max_tokens_per_batch` is 'auto', but the memory of a CPU is not measured"
    assert said in capfd.readouterr().out
    assert auto.steps.size == MicroBatchSize(2)
    assert max(len(batch.pairs) for batch in next(iter(auto.get_train_dataloader()))) == 2


class Tracked:
    """Bytes that a trial really allocates on the CPU, together with those allocated before."""

    def __init__(self, model):
        self.model = model

    def begin(self):
        self.standing = sum(parameter.nbytes for parameter in self.model.parameters())
        self.tracker = PeakTracker([*self.model.parameters(), *self.model.buffers()])
        self.tracker.__enter__()

    def peak(self):
        self.tracker.__exit__(None, None, None)
        return self.standing + self.tracker.peak


@pytest.mark.parametrize("layout", [pytest.param("plain", marks=pytest.mark.slow), "shared"])
def test_the_prediction_is_near_what_a_trial_takes(base_model, rows, tmp_path, monkeypatch, layout):
    trainer = make(
        base_model(), tmp_path, rows.pairs(4), monkeypatch, batch_layout=layout, max_tokens_per_batch="auto",
        lm_loss_coef=0.1,
    )  # fmt: skip
    one = Trial(trainer.model, trainer.args, read_engine(trainer.accelerator), layout, 64)
    predicted = one.prediction()
    state, before = torch.get_rng_state(), trainer.meter.state()
    for tokens in (256, 2048):
        taken = one.run(tokens, Tracked(trainer.model), trainer._try_batch)
        assert predicted(tokens) == pytest.approx(taken, rel=0.2)
    assert torch.equal(state, torch.get_rng_state()) and trainer.meter.state() == before
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_room_is_kept_for_what_the_first_step_adds(base_model, rows, tmp_path, monkeypatch):
    trainer = make(base_model(), tmp_path, rows.pairs(4), monkeypatch)
    weights = sum(parameter.numel() for parameter in trainer.model.parameters())
    engine = read_engine(trainer.accelerator)
    one = Trial(trainer.model, trainer.args, engine, "plain", 64)
    assert one.reserved() == 8 * weights  # AdamW's two moments
    one.engine = type(engine)("MULTI_GPU", 4, "cuda", "no")
    assert one.reserved() == 12 * weights  # plus the buckets of DDP


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_what_was_found_fits_with_a_tenth_left(base_model, rows, tmp_path, monkeypatch):
    options = {"use_cpu": False, "max_tokens_per_batch": "auto", "pairs_per_step": 4096, "save_strategy": "no"}
    trainer = make(base_model(), tmp_path, rows.pairs(64), monkeypatch, **options)
    memory = CudaMemory(trainer.args.device)
    # Room for little more than what is allocated, so that the search has something to find.
    budget = torch.cuda.memory_reserved() + 256 * 2**20
    monkeypatch.setattr(memory, "budget", lambda: budget)
    monkeypatch.setattr(auto_size, "memory_of", lambda device: memory)
    standing = torch.cuda.memory_allocated()
    trainer.choose_micro_batches(None)
    assert torch.cuda.memory_allocated() - standing < 64 * 2**20  # the trials leave nothing but cuBLAS's workspace
    tokens, unit = trainer.steps.size.tokens, 2 * longest_text(trainer.data.joined, 64)
    one = Trial(trainer.model, trainer.args, read_engine(trainer.accelerator), trainer.batch_layout, unit // 2)
    assert one.run(tokens, memory, trainer._try_batch) <= budget
    assert tokens == 4096 * unit or one.run(2 * tokens, memory, trainer._try_batch) > budget
    trainer.train()
    assert CudaMemory(trainer.args.device).budget() < 0.9 * torch.cuda.get_device_properties(0).total_memory


@pytest.mark.parametrize(("given", "read"), [("auto", "auto"), ("4096", 4096), (4096, 4096), (None, None)])
def test_the_setting_is_read_from_a_recipe_and_the_command_line(tmp_path, given, read):
    assert RewardModelConfig(output_dir=str(tmp_path), max_tokens_per_batch=given).max_tokens_per_batch == read
    if given is not None:
        parser = TrlParser(RewardModelConfig)
        (args,) = parser.parse_args_and_config(["--output_dir", str(tmp_path), "--max_tokens_per_batch", str(given)])
        assert args.max_tokens_per_batch == read


def test_other_words_and_too_few_tokens_are_refused(tmp_path):
    with pytest.raises(InputError, match="`max_tokens_per_batch` is 'many'; it must be a number of tokens, or 'auto'"):
        RewardModelConfig(output_dir=str(tmp_path), max_tokens_per_batch="many")
    with pytest.raises(InputError, match="needs 1024"):
        RewardModelConfig(output_dir=str(tmp_path), max_tokens_per_batch="1000")
