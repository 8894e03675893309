"""What a run logs, and the learning curves made from it."""

import json

import pytest

from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.learning_curves import accuracy_points, read_learning_curves
from rm_toolkit.models.settings import RewardModelSettings


HISTORY = [
    {"step": 0, "eval_helpful_accuracy": 0.5, "eval_helpful_first_two_accuracy": 0.1, "eval_dsp_law_accuracy": 0.4},
    {"step": 2, "loss": 0.7, "accuracy": 0.9},
    {"step": 4, "eval_helpful_accuracy": 0.6, "eval_dsp_law_accuracy": None, "eval_once_accuracy": 0.9},
    {"step": 4, "eval_helpful_accuracy": 0.7},
    {"step": 6, "eval_dsp_law_accuracy": 0.8},
]


def test_points_by_hand():
    points = accuracy_points(HISTORY, per_step=16)
    assert points == {"helpful": [(0, 0.5), (64, 0.7)], "dsp_law": [(0, 0.4), (96, 0.8)]}
    assert accuracy_points([{"step": k, "eval_accuracy": 0.5} for k in (0, 1)], 1) == {"eval": [(0, 0.5), (1, 0.5)]}


@pytest.mark.parametrize(
    ("name", "log", "unit"),
    [
        ("training_log.json", {"pairs_per_step": 16, "log_history": HISTORY}, "training pairs"),
        ("trainer_state.json", {"log_history": HISTORY}, "optimizer steps"),
    ],
)
def test_the_domain_is_told_from_the_general_sets(tmp_path, name, log, unit):
    (tmp_path / name).write_text(json.dumps(log))
    curves = read_learning_curves(tmp_path, RewardModelSettings(domain="law"))
    assert (curves.unit, curves.customized, list(curves.points)) == (unit, ["dsp_law"], ["helpful", "dsp_law"])
    assert json.loads(json.dumps(curves.as_dict()))["accuracy"]["helpful"][0] == [0, 0.5]


def test_no_log_no_curves_and_a_damaged_one_is_named(tmp_path):
    assert read_learning_curves(tmp_path) is None
    (tmp_path / "training_log.json").write_text('{"log_history": 3}')
    with pytest.raises(InputError, match=r"training_log.json is not a training log"):
        read_learning_curves(tmp_path)


def test_a_run_keeps_its_log(make_trainer, rows, tmp_path):
    trainer = make_trainer(
        rows.pairs(8), eval_rows={"mine": rows.pairs(4, 1)}, max_steps=2, eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    trainer.save_results()
    curves = read_learning_curves(tmp_path / "run")
    assert curves.unit == "training pairs"
    assert [position for position, _ in curves.points["mine"]] == [4, 8]
    logged = [log["eval_mine_accuracy"] for log in trainer.state.log_history if "eval_mine_accuracy" in log]
    assert [value for _, value in curves.points["mine"]] == logged
