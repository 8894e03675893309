"""Killed and resumed, signalled or diverged, a run loses nothing and says what happened."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
from faulty_runs import assert_same_ending, at, ending, in_child, kill, send, terminate, train_to_end

from rm_toolkit.training.manifest import checkpoints, find_checkpoint, read_manifest


@pytest.fixture(scope="module")
def data(rows):
    return {"train": rows.ranked(10), "ranked": rows.ranked(3, seed=2), "pairs": rows.pairs(5, seed=1)}


@pytest.fixture(scope="module")
def dropout_base(base_model, tmp_path_factory):
    """The tiny Llama with dropout in its attention, so that random states matter."""
    folder = tmp_path_factory.mktemp("dropout")
    shutil.copytree(base_model(), folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.2}))
    return str(folder)


@pytest.fixture(scope="module")
def uninterrupted(dropout_base, data, tmp_path_factory):
    """`uninterrupted(name, num_processes)`: the ending of the run with these options, uninterrupted; run once."""
    found = {}

    def get(name, num_processes=1):
        if (name, num_processes) not in found:
            folder = tmp_path_factory.mktemp("whole")
            run = train_to_end(folder, dropout_base, data, RUNS[name])
            assert in_child(run, num_processes) == [0] * num_processes
            found[name, num_processes] = ending(folder)
        return found[name, num_processes]

    return get


# 6 steps per epoch; the last one is smaller.
RUNS = {
    "dropout": {},
    "tokens": {"max_tokens_per_batch": 160, "lm_loss_coef": 0.3, "save_steps": 3},
    "lora": {"lora": True, "lm_loss_coef": 0.3, "pair_weighting": "prompt", "group_by_prompt": False},
    "best": {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_pairs_loss",
        "greater_is_better": False,
        "save_total_limit": 1,
        "learning_rate": 3e-2,
    },
    "epochs": {"save_strategy": "epoch", "logging_strategy": "epoch", "num_train_epochs": 3},
}


@pytest.mark.parametrize(
    ("run", "steps"),
    [
        ("dropout", (3, 8)),
        ("tokens", (5,)),
        pytest.param("lora", (7,), marks=pytest.mark.slow),
        pytest.param("best", (11,), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_as_if_nothing_had_happened(uninterrupted, dropout_base, data, tmp_path, run, steps):
    for step in steps:
        killed = train_to_end(
            tmp_path, dropout_base, data, RUNS[run], lambda step=step: [at(step, "on_step_end", kill)]
        )
        assert in_child(killed) == [-signal.SIGKILL]
        assert not (tmp_path / "end.json").exists()
    assert in_child(train_to_end(tmp_path, dropout_base, data, RUNS[run])) == [0]
    assert_same_ending(ending(tmp_path), uninterrupted(run))


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("step", [2, 4, 6, 9, 11])
def test_every_kind_of_run_resumes_from_every_kind_of_step(uninterrupted, dropout_base, data, tmp_path, run, step):
    killed = train_to_end(tmp_path, dropout_base, data, RUNS[run], lambda: [at(step, "on_optimizer_step", kill)])
    assert in_child(killed) == [-signal.SIGKILL]
    assert in_child(train_to_end(tmp_path, dropout_base, data, RUNS[run])) == [0]
    assert_same_ending(ending(tmp_path), uninterrupted(run))


def test_a_run_killed_between_its_checkpoint_and_the_epoch_s_evaluation_makes_up_for_it(
    uninterrupted, dropout_base, data, tmp_path
):
    """`save_steps` and the end of the epoch meet at step 6: the checkpoint comes first."""
    options = {**RUNS["dropout"], "save_steps": 6, "logging_strategy": "epoch"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_child(train_to_end(whole, dropout_base, data, options)) == [0]
    run = train_to_end(killed, dropout_base, data, options, lambda: [at(6, "on_save", kill)])
    assert in_child(run) == [-signal.SIGKILL]
    assert in_child(train_to_end(killed, dropout_base, data, options)) == [0]
    assert_same_ending(ending(killed), ending(whole))
    assert [log["step"] for log in ending(killed)["logs"] if "eval_pairs_loss" in log] == [0, 6, 12]


@pytest.mark.slow
def test_early_stopping_goes_on_counting(dropout_base, data, tmp_path):
    """Killed at an evaluation without improvement, and again after it had stopped: the number of steps is the same."""
    from transformers import EarlyStoppingCallback

    options = {**RUNS["best"], "save_total_limit": None, "learning_rate": 0.2, "num_train_epochs": 4}

    def run(folder, *callbacks):
        return train_to_end(
            folder, dropout_base, data, options, lambda: [EarlyStoppingCallback(early_stopping_patience=2), *callbacks]
        )

    assert in_child(run(tmp_path / "whole")) == [0]
    expected = ending(tmp_path / "whole")
    last = expected["logs"][-1]["step"]
    assert last < 24
    folder = tmp_path / "killed"
    assert in_child(run(folder, at(last - 1, "on_step_end", kill))) == [-signal.SIGKILL]
    assert in_child(run(folder, at(last, "on_train_end", kill))) == [-signal.SIGKILL]
    assert in_child(run(folder)) == [0]
    assert_same_ending(ending(folder), expected)


# ---- told to stop ----


# Signal, exit code, event and step of the signal, steps between checkpoints, last checkpoint.
STOPS = {
    "SIGTERM": (signal.SIGTERM, 143, "on_step_begin", 4, 2, 5),
    "SIGINT": (signal.SIGINT, 130, "on_step_begin", 7, 5, 8),
    "before the evaluation of an epoch": (signal.SIGTERM, 143, "on_step_begin", 5, 4, 6),
    "inside the evaluation of an epoch": (signal.SIGTERM, 143, "on_log", 6, 4, 6),
    "inside it, the step being saved": (signal.SIGTERM, 143, "on_log", 6, 2, 6),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_signal_writes_a_checkpoint_and_ends_the_run(uninterrupted, dropout_base, data, tmp_path, stop):
    number, code, event, step, save_steps, last = STOPS[stop]
    options = {"save_steps": save_steps}
    stopped = train_to_end(tmp_path, dropout_base, data, options, lambda: [at(step, event, send(number))])
    assert in_child(stopped) == [code]
    assert not (tmp_path / "end.json").exists() and not (tmp_path / "final_eval_results.json").exists()
    assert find_checkpoint(tmp_path) == (str(tmp_path / f"checkpoint-{last}"), [])
    assert in_child(train_to_end(tmp_path, dropout_base, data, options)) == [0]
    assert_same_ending(ending(tmp_path), uninterrupted("dropout"))


def test_a_run_without_checkpoints_stops_without_one(dropout_base, data, tmp_path, capfd):
    options = {"save_strategy": "no"}
    stopped = train_to_end(tmp_path, dropout_base, data, options, lambda: [at(2, "on_step_begin", terminate)])
    assert in_child(stopped) == [143]
    assert not checkpoints(tmp_path)
    assert "Stopped by SIGTERM at step 3. Nothing was saved." in capfd.readouterr().out


def test_loading_processes_do_not_die_before_the_run_has_stopped(dropout_base, data, tmp_path):
    """The signal goes to the whole process group, as from a scheduler."""
    options = {"dataloader_num_workers": 1, "save_steps": 100}

    def stopped():
        os.setpgrp()
        to_all = at(2, "on_step_begin", lambda: os.killpg(0, signal.SIGTERM))
        train_to_end(tmp_path, dropout_base, data, options, lambda: [to_all])()

    assert in_child(stopped) == [143]
    assert list(checkpoints(tmp_path)) == [3]


def test_a_second_ctrl_c_insists_but_two_at_once_are_one(monkeypatch):
    from rm_toolkit.training import stopping

    before = signal.getsignal(signal.SIGINT)
    with stopping.StopSignals() as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        monkeypatch.setattr(stopping, "SECONDS_TO_INSIST", -1.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# ---- two processes ----


def test_two_processes_agree_on_the_step_and_resume_bit_for_bit(uninterrupted, dropout_base, data, tmp_path, capfd):
    """One process is told to stop, and later one is killed: both processes end both times."""
    options = {**RUNS["dropout"], "ddp_timeout": 20}

    def run(*callbacks):
        return train_to_end(tmp_path, dropout_base, data, options, lambda: list(callbacks))

    assert in_child(run(at(2, "on_step_begin", send(signal.SIGTERM, rank=1))), 2) == [143, 143]
    assert list(checkpoints(tmp_path)) == [2, 3]
    first, second = in_child(run(at(7, "on_step_end", send(signal.SIGKILL, rank=1))), 2, timeout=60)
    assert first > 0 and second == -signal.SIGKILL
    assert in_child(run(), 2) == [0, 0]
    assert read_manifest(tmp_path / "checkpoint-12")["num_processes"] == 2
    assert_same_ending(ending(tmp_path), uninterrupted("dropout", 2))
