"""Evaluation during a run, checkpoints that resume as if nothing had happened, and the results of a run."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback

from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.pair_rewards import PairRewards, read_pair_rewards, write_pair_rewards
from rm_toolkit.models.files import FINAL_PAIRS_NAME
from rm_toolkit.training.weights import load_weights


METRICS = {"accuracy", "first_two_accuracy", "margin", "loss", "num_pairs", "num_ties"}
MORE = {"num_label_ties", "reward_mean", "reward_std"}
# The Trainer's own state is a pickle, but contains nothing of the model.
TRAINER_STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_equal_bits(found, expected):
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different


def train_logs(trainer):
    return {log["step"]: log for log in trainer.state.log_history if "loss" in log}


# ---- checkpoints ----

RUNS = {
    "pairs": {},
    "lm_loss": {"lm_loss_coef": 0.3, "logging_steps": 2},
    "tied": {"lm_loss_coef": 0.3},
    "lora": {"lm_loss_coef": 0.3},
}


@pytest.mark.parametrize("run", RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one(make_trainer, base_model, rows, tmp_path, run):
    def make(**options):
        return make_trainer(
            rows.ranked(8),
            base_model("qwen3", tied=True) if run == "tied" else base_model(),
            peft_config=LoraConfig(r=2, lora_dropout=0.1) if run == "lora" else None,
            pairs_per_step=8,
            num_train_epochs=2,
            lr_scheduler_type="linear",
            **{**RUNS[run], **options},
        )

    # 38 pairs: steps of 8, 8, 8, 8 and 6; the checkpoint is in the middle of the second epoch
    whole = make(save_strategy="steps", save_steps=7)
    whole.train()
    assert whole.state.global_step == 10
    shutil.copytree(tmp_path / "run" / "checkpoint-7", tmp_path / "again" / "checkpoint-7")
    resumed = make(output_dir=str(tmp_path / "again"), seed=42)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 10
    assert_equal_bits(weights(resumed.model), weights(whole.model))
    expected, found = train_logs(whole), train_logs(resumed)
    assert found.keys() == expected.keys()
    for step in expected:
        assert found[step] == expected[step], step  # one of them spans the interruption


def test_a_checkpoint_is_a_reward_model_and_holds_no_other_pickles(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows.pairs(8), save_strategy="epoch", num_train_epochs=1, lm_loss_coef=0.1)
    trainer.train()
    folder = tmp_path / "run" / "checkpoint-2"
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    pickles = {name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))}
    assert pickles <= TRAINER_STATE and "README.md" not in names
    assert {"config.json", "model.safetensors", "rm_toolkit.json", "tokenizer.json"} <= names
    again = make_trainer(rows.pairs(2), str(folder), require_head=True, lm_loss_coef=0.1)
    assert_equal_bits(weights(again.model), weights(trainer.model))


def test_a_lora_checkpoint_holds_the_adapter_alone(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows.pairs(8), save_strategy="epoch", num_train_epochs=1, peft_config=LoraConfig(r=2))
    trainer.train()
    folder = tmp_path / "run" / "checkpoint-2"
    assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert any(name.endswith("score.weight") for name in load_file(folder / "adapter_model.safetensors"))


def test_a_checkpoint_of_another_model_is_refused(make_trainer, base_model, rows, tmp_path):
    make_trainer(rows.pairs(2), base_model("qwen3")).save_model(str(tmp_path / "qwen3"))
    llama = make_trainer(rows.pairs(2)).model
    with pytest.raises(InputError, match=r"is a checkpoint of another model: it has 'model.layers.0.self_attn.k_norm"):
        load_weights(llama, str(tmp_path / "qwen3"))
    make_trainer(rows.pairs(2), max_length=30).save_model(str(tmp_path / "llama"))
    llama.resize_token_embeddings(500)
    with pytest.raises(InputError, match=r"another model: its 'model.embed_tokens.weight' has the shape \[421, 16\]"):
        load_weights(llama, str(tmp_path / "llama"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no weights .* to resume from"):
        load_weights(llama, str(tmp_path / "empty"))


def test_a_checkpoint_that_lacks_a_weight_is_refused(make_trainer, rows, tmp_path):
    from safetensors.torch import save_file

    trainer = make_trainer(rows.pairs(2))
    trainer.save_model(str(tmp_path / "rm"))
    state = load_file(tmp_path / "rm" / "model.safetensors")
    del state["score.weight"]
    save_file(state, tmp_path / "rm" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"another model: it lacks 'score.weight'"):
        load_weights(trainer.model, str(tmp_path / "rm"))


# ---- evaluation during the run ----


@pytest.mark.parametrize("name", ["eval_on_start", "eval_at_start"])
def test_evaluation_before_the_first_step(make_trainer, rows, name):
    trainer = make_trainer(rows.pairs(4), eval_rows={"a": rows.pairs(3)}, **{name: True})
    trainer.train()
    assert [log["step"] for log in trainer.state.log_history if "eval_a_accuracy" in log] == [0]
    trainer = make_trainer(rows.pairs(4), eval_rows={"a": rows.pairs(3)}, eval_at_start=False)
    trainer.train()
    assert not [log for log in trainer.state.log_history if "eval_a_accuracy" in log]


def test_evaluation_every_n_steps_logs_all_sets_at_once(make_trainer, rows):
    sets = {"helpful": rows.pairs(3), "dsp_literature": rows.ranked(3)}
    trainer = make_trainer(rows.pairs(16), eval_rows=sets, eval_strategy="steps", eval_steps=2, num_train_epochs=1)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "eval_helpful_accuracy" in log]
    assert [log["step"] for log in logs] == [2, 4]
    for log in logs:
        for name in sets:
            assert {f"eval_{name}_{key}" for key in METRICS | MORE} <= log.keys()


@pytest.fixture
def worsening(make_trainer, rows):
    """A run that gets worse: trained on swapped pairs and evaluated on the original ones, every step."""

    def make(**options):
        pairs = rows.pairs(16)
        swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
        return make_trainer(
            swapped,
            eval_rows={"a": pairs, "b": rows.ranked(2)},
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            num_train_epochs=2,
            learning_rate=1e-2,
            **options,
        )

    return make


@pytest.mark.parametrize("metric", ["eval_a_loss", "a_loss"])
def test_the_best_model_by_a_metric_of_a_named_set_is_loaded_at_the_end(worsening, metric, tmp_path):
    trainer = worsening(metric_for_best_model=metric, greater_is_better=False)
    trainer.train()
    losses = {log["step"]: log["eval_a_loss"] for log in trainer.state.log_history if "eval_a_loss" in log}
    best = min(losses, key=losses.get)
    assert trainer.state.best_metric == losses[best] and best < max(losses)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert trainer.evaluate()["eval_a_loss"] == pytest.approx(losses[best], abs=1e-6)


def test_the_results_at_the_end_are_those_of_the_model_that_is_saved(worsening, monkeypatch):
    from types import SimpleNamespace

    from rm_toolkit.training import reloading
    from rm_toolkit.training.stages import run_stage

    monkeypatch.setattr(reloading, "check_reload", lambda folder, texts, rewards, **how: rewards)
    trainer = worsening(metric_for_best_model="eval_a_loss", greater_is_better=False)
    run_stage(trainer, SimpleNamespace(next_command=None, overwrite_output_dir=False), None)
    assert trainer.results()["a"]["loss"] == pytest.approx(trainer.state.best_metric, abs=1e-6)


def test_early_stopping(worsening):
    trainer = worsening(
        metric_for_best_model="eval_a_accuracy",
        greater_is_better=True,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    assert trainer.state.global_step < trainer.state.max_steps == 8


# ---- results ----


def test_final_results_hold_every_set_at_start_and_end(make_trainer, rows, read_json, tmp_path):
    sets = {"helpful": rows.pairs(3), "dsp_literature": rows.ranked(3)}
    trainer = make_trainer(
        rows.pairs(8), eval_rows=sets, eval_on_start=True, eval_strategy="epoch", num_train_epochs=2
    )
    trainer.train()
    trainer.save_results()
    results = read_json(tmp_path / "run" / "final_eval_results.json")
    assert results.keys() == {"start", "end"}
    for when in results.values():
        assert list(when) == ["helpful", "dsp_literature"]
        for metrics in when.values():
            assert METRICS <= metrics.keys() <= METRICS | MORE
    logs = [log for log in trainer.state.log_history if "eval_helpful_loss" in log]
    assert results["start"]["helpful"]["loss"] == logs[0]["eval_helpful_loss"]
    assert results["end"]["helpful"]["loss"] == logs[-1]["eval_helpful_loss"] != logs[0]["eval_helpful_loss"]
    assert trainer.evaluated_step() == trainer.state.global_step == 4


def test_the_rewards_behind_the_final_results_are_kept_pair_by_pair(make_trainer, rows, tmp_path):
    sets = {"helpful": rows.pairs(3), "dsp_literature": rows.ranked(3)}
    trainer = make_trainer(rows.pairs(8), eval_rows=sets, eval_on_start=True, eval_strategy="epoch")
    trainer.train()
    end = trainer.save_results()["end"]
    found = read_pair_rewards(tmp_path / "run" / FINAL_PAIRS_NAME)
    assert list(found) == list(sets)
    for name, pairs in found.items():
        expected = trainer.predict(trainer.eval_dataset[name]).predictions
        assert np.array_equal(pairs.better, expected[:, 0]) and np.array_equal(pairs.worse, expected[:, 1])
        assert np.mean(pairs.margins > 0) == end[name]["accuracy"] and len(np.unique(pairs.prompt)) == 3


def test_rewards_of_other_weights_than_those_of_the_results_are_not_kept(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows.pairs(8), eval_rows={"helpful": rows.pairs(3)}, eval_strategy="epoch")
    trainer.train()
    pairs = trainer.pair_rewards["helpful"]
    trainer.pair_rewards["helpful"] = PairRewards(
        pairs.worse, pairs.better, pairs.prompt
    )  # accuracy is 1 - that in the log
    trainer.save_results()
    assert not (tmp_path / "run" / FINAL_PAIRS_NAME).exists()


def test_a_run_resumed_after_its_last_evaluation_keeps_their_file_only_if_it_fits(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows.pairs(8), eval_rows={"helpful": rows.pairs(3)}, eval_strategy="epoch")
    trainer.train()
    trainer.save_results()
    path, pairs = tmp_path / "run" / FINAL_PAIRS_NAME, trainer.pair_rewards["helpful"]
    trainer.pair_rewards = {}  # the metrics are in the log, the rewards were in the process that ended
    trainer.save_results()
    assert np.array_equal(read_pair_rewards(path)["helpful"].better, pairs.better)
    write_pair_rewards({"helpful": PairRewards(pairs.worse, pairs.better, pairs.prompt)}, path)  # of other weights
    trainer.save_results()
    assert not path.exists()


def test_results_of_a_set_without_a_name(make_trainer, rows):
    trainer = make_trainer(rows.pairs(4), eval_rows=rows.pairs(3), eval_strategy="epoch", num_train_epochs=1)
    trainer.train()
    results = trainer.save_results()
    assert results["start"] == {} and results["end"]["eval"].keys() >= METRICS


def test_results_without_evaluation_are_empty(make_trainer, rows):
    trainer = make_trainer(rows.pairs(4), num_train_epochs=1)
    trainer.train()
    assert trainer.save_results() == {"start": {}, "end": {}} and trainer.evaluated_step() is None


def test_results_are_json_where_there_is_nothing_to_count(make_trainer, rows, tmp_path):
    """Two tied responses ahead of a third: pairs to count, but no first two."""
    tied = [{"prompt": "river ", "completions": ["a", "b", "c"], "scores": [1.0, 1.0, 0.0]}]
    trainer = make_trainer(rows.pairs(4), eval_rows={"tied": tied}, eval_strategy="epoch", num_train_epochs=1)
    trainer.train()
    assert math.isnan(trainer.save_results()["end"]["tied"]["first_two_accuracy"])
    text = (tmp_path / "run" / "final_eval_results.json").read_text()
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert results["end"]["tied"]["first_two_accuracy"] is None and results["end"]["tied"]["num_pairs"] == 2
