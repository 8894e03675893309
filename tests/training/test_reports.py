"""`report_to`: what TensorBoard, trackio and Weights & Biases get, read back from the files that they write."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from rm_toolkit import RewardModelConfig
from rm_toolkit.errors import InputError
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.training import reports


SETTINGS = RewardModelSettings(stage="crft", domain="literature", lineage=[{"stage": "grft"}, {"stage": "crft"}])


@pytest.fixture
def reported(make_trainer, rows, tmp_path, monkeypatch):
    """Trains two steps of 8 pairs in micro-batches of 2 and reports to one place."""
    monkeypatch.chdir(tmp_path)

    def run(name, **options):
        pytest.importorskip(name)
        tests = {"general": rows.pairs(3, seed=1), "literature": rows.pairs(3, seed=2)}
        how = {"per_device_train_batch_size": 2, "pairs_per_step": 8, "max_steps": 2, "eval_on_start": True}
        how |= {"eval_strategy": "steps", "eval_steps": 2, "run_name": "crft-literature", "report_to": name}
        trainer = make_trainer(rows.pairs(16), eval_rows=tests, settings=SETTINGS, **{**how, **options})
        trainer.train()
        return trainer

    return run


def check_values(values, trainer):
    """Checks `values`: by name, what was logged at each step."""
    assert trainer.state.global_step == 2
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "eval_general_accuracy" in entry}
    for step in (0, 2):
        for name in ("general", "literature"):
            assert values[f"eval/{name}_accuracy"][step] == pytest.approx(logged[step][f"eval_{name}_accuracy"])
    assert sorted(values["train/loss"]) == [1, 2]


def check_config(config):
    """Checks the settings of the run as a reader of the report sees them."""
    assert config["gradient_accumulation_steps"] == 4 and config["pairs_per_step"] == 8
    assert config["run_name"] == "crft-literature"
    lineage = config["rm_toolkit"]["lineage"]
    assert [entry["stage"] for entry in lineage] == ["grft", "crft"] and config["rm_toolkit"]["domain"] == "literature"


@pytest.mark.slow
def test_tensorboard(reported):
    trainer = reported("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(Path(trainer.args.output_dir).rglob("events.out.tfevents*")).parent
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    check_values({tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags}, trainer)
    texts = [events.Tensors(tag)[0].tensor_proto.string_val[0] for tag in events.Tags()["tensors"]]
    check_config({key: value for text in texts for key, value in json.loads(text).items()})


@pytest.mark.slow
def test_wandb(reported, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainer = reported("wandb")
    import wandb

    check_config(dict(wandb.config))
    rows = {}
    for name, value in dict(wandb.run.summary).items():
        rows[name] = value
    last = [entry for entry in trainer.state.log_history if "eval_general_accuracy" in entry][-1]
    assert rows["eval/general_accuracy"] == pytest.approx(last["eval_general_accuracy"])
    assert rows["train/global_step"] == 2
    wandb.finish()


@pytest.mark.slow
def test_trackio(reported, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trainer = reported("trackio", project="tests")
    found = {}
    with sqlite3.connect(next((tmp_path / "trackio").glob("*.db"))) as database:
        (config,) = database.execute("select config from configs").fetchone()
        for (metrics,) in database.execute("select metrics from metrics"):
            metrics = json.loads(metrics)
            for name, value in metrics.items():  # trackio counts on where two logs have the same step
                found.setdefault(name, {})[metrics["train/global_step"]] = value
    check_values(found, trainer)
    check_config(json.loads(config))


def test_unknown_names_are_refused_at_the_start(tmp_path):
    with pytest.raises(
        InputError, match=r"`report_to` is 'tensorbord'; it must be one of .* Did you mean 'tensorboard'\?"
    ):
        RewardModelConfig(str(tmp_path), use_cpu=True, report_to="tensorbord")


def test_what_is_not_installed_is_named_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(reports.integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(InputError, match=r"`report_to` has 'wandb', which is not installed: pip install wandb"):
        RewardModelConfig(str(tmp_path), use_cpu=True, report_to=["wandb"])
