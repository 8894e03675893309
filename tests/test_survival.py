"""Killed and resumed, signalled, diverged: a run loses nothing and says what happened."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from faulty_runs import assert_same_ending, at, ending, in_child, kill, send, terminate, train_to_end

from rm_toolkit.manifest import checkpoints, find_checkpoint, read_manifest


@pytest.fixture(scope="module")
def data(rows):
    return {"train": rows.ranked(10), "pairs": rows.pairs(5, seed=1), "ranked": rows.ranked(3, seed=2)}


@pytest.fixture(scope="module")
def dropout_base(base_model, tmp_path_factory):
    """The tiny Llama with dropout in its attention, so that the state of the random numbers matters."""
    folder = tmp_path_factory.mktemp("dropout")
    shutil.copytree(base_model(), folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.2}))
    return str(folder)


@pytest.fixture(scope="module")
def uninterrupted(dropout_base, data, tmp_path_factory):
    """`uninterrupted(name, num_processes)`: how the run of these options ends if nothing happens to it; run once."""
    found = {}

    def get(name, num_processes=1):
        if (name, num_processes) not in found:
            folder = tmp_path_factory.mktemp("whole")
            run = train_to_end(folder, dropout_base, data, RUNS[name])
            assert in_child(run, num_processes) == [0] * num_processes
            found[name, num_processes] = ending(folder)
        return found[name, num_processes]

    return get


# 53 pairs: steps of 8 and one of 5; two epochs are 14 steps. Logs every 3 steps and checkpoints every 2 never meet.
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


@pytest.mark.parametrize(("run", "steps"), [("dropout", (3, 9)), ("tokens", (5,)), ("lora", (7,)), ("best", (11,))])
def test_a_killed_run_resumes_as_if_nothing_had_happened(uninterrupted, dropout_base, data, tmp_path, run, steps):
    for step in steps:
        killed = train_to_end(
            tmp_path, dropout_base, data, RUNS[run], lambda step=step: [at(step, "on_step_end", kill)]
        )
        assert in_child(killed) == [-signal.SIGKILL]
        assert not (tmp_path / "end.json").exists()
    assert in_child(train_to_end(tmp_path, dropout_base, data, RUNS[run])) == [0]
    assert_same_ending(ending(tmp_path), uninterrupted(run))
