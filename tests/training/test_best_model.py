"""A metric that nothing will measure is refused before the first step."""

from __future__ import annotations

import pytest
from transformers import EarlyStoppingCallback

from rm_toolkit.errors import InputError
from rm_toolkit.training.best_model import check_best_metric
from rm_toolkit.training.sft import OF_ALL_SETS, BaseLmConfig


EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


@pytest.fixture
def make(make_trainer, rows):
    """`make(eval_sets, **config)`: a trainer on eight pairs, with test sets of these names or a single unnamed one."""

    def build(sets, **config):
        pairs = rows.pairs(8)
        return make_trainer(pairs, eval_rows=dict.fromkeys(sets, pairs) if sets is not None else pairs, **config)

    return build


@pytest.mark.parametrize(
    "metric", ["eval_accuracy", "accuracy", "eval_helpful_acuracy", "helpful_accurracy", "margin"]
)
@pytest.mark.parametrize(
    "reader",
    [
        {"load_best_model_at_end": True},
        {"save_strategy": "best"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"callbacks": [EarlyStoppingCallback()]},
        {},
    ],
    ids=["load_best", "save_best", "plateau", "early_stopping", "unused"],
)
def test_a_metric_that_no_named_set_gives_is_refused(make, metric, reader):
    with pytest.raises(
        InputError, match=rf"`metric_for_best_model` is '{metric}'.* not report .*'eval_helpful_accuracy'"
    ):
        make(["helpful", "harmless"], metric_for_best_model=metric, **{**EVERY_STEP, **reader})


def test_the_error_names_the_closest_metric_and_what_reads_it(make):
    with pytest.raises(InputError, match=r"for `load_best_model_at_end`.* Did you mean 'eval_helpful_accuracy'\?"):
        make(["helpful"], metric_for_best_model="helpful_acuracy", load_best_model_at_end=True, **EVERY_STEP)


def test_many_sets_are_listed_by_set_and_metric(make):
    with pytest.raises(
        InputError, match=r"'eval_NAME_METRIC' with NAME one of 'a', 'b', 'c' and METRIC one of 'accuracy'"
    ):
        make(["a", "b", "c"], metric_for_best_model="accuracy", **EVERY_STEP)


def test_the_default_of_transformers_is_no_metric_of_named_sets(make):
    with pytest.raises(
        InputError, match=r"is 'loss'.*default.* not report 'eval_loss'.* Did you mean 'eval_helpful_loss'"
    ):
        make(["helpful"], load_best_model_at_end=True, **EVERY_STEP)


@pytest.mark.parametrize("sets", [None, ["helpful"]])
@pytest.mark.parametrize("metric", ["margin", "loss"])
def test_a_metric_of_the_sets_trains_to_the_end(make, sets, metric):
    name = f"eval_helpful_{metric}" if sets else metric
    trainer = make(
        sets,
        metric_for_best_model=name,
        load_best_model_at_end=True,
        max_steps=2,
        **EVERY_STEP,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=5)],
        lr_scheduler_type="reduce_lr_on_plateau",
    )
    trainer.train()
    assert trainer.state.best_metric is not None


def test_without_evaluations_the_metric_is_refused(make):
    with pytest.raises(InputError, match=r"`eval_strategy` is 'no': it is never measured"):
        make(["helpful"], metric_for_best_model="helpful_loss", eval_strategy="no")
    with pytest.raises(InputError, match=r"for `save_strategy: best`, but `eval_strategy` is 'no'"):
        make(["helpful"], metric_for_best_model="helpful_loss", save_strategy="best")


def test_without_test_sets_the_metric_is_refused(make_trainer, rows):
    for sets in (None, {}):
        with pytest.raises(InputError, match=r"no test set to measure it on. Name one: --eval_datasets"):
            make_trainer(rows.pairs(8), eval_rows=sets, metric_for_best_model="loss", **EVERY_STEP)


def test_early_stopping_without_a_metric_is_refused_when_it_is_added_later(make):
    with pytest.raises(InputError, match=r"early stopping needs `metric_for_best_model`.*'eval_helpful_accuracy'"):
        make(["helpful"], callbacks=[EarlyStoppingCallback()], **EVERY_STEP)
    trainer = make(["helpful"], **EVERY_STEP)
    trainer.add_callback(EarlyStoppingCallback())
    with pytest.raises(InputError, match="early stopping needs"):
        trainer.train()


def test_no_metric_is_needed_where_nothing_reads_one(make):
    assert make(["helpful"], **EVERY_STEP).args.metric_for_best_model is None


def test_the_base_lm_stage_measures_a_loss_of_each_set(tmp_path):
    args = BaseLmConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        load_best_model_at_end=True,
        metric_for_best_model="a_accuracy",
        **EVERY_STEP,
    )
    measured = {"metrics": ("loss",), "of_all_sets": OF_ALL_SETS}
    with pytest.raises(InputError, match=r"not report 'eval_a_accuracy', only 'eval_a_loss', 'eval_b_loss'"):
        check_best_metric(args, {"a": [1], "b": [1]}, **measured)
    for metric in ("a_loss", "eval_b_loss", "mean_token_accuracy"):
        args.metric_for_best_model = metric
        check_best_metric(args, {"a": [1], "b": [1]}, **measured)
