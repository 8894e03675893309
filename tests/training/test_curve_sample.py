"""`eval_curve_fraction`: whole test sets at the first and last step, and a fixed share of each in between."""

from __future__ import annotations

import math
import shutil

import pytest
from datasets import Dataset

from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.learning_curves import accuracy_points
from rm_toolkit.training.best_model import check_best_metric
from rm_toolkit.training.curve_sample import sample_prompts, sample_sets
from rm_toolkit.training.results import last_evaluated_step, results_of


def rows_of(**domains):
    """`law=6`: six prompts with two rows each."""
    return Dataset.from_list(
        [
            {
                "prompt": f"{domain} {k}? ",
                "chosen": f"a{n}",
                "rejected": "b",
                "domain": domain,
                "prompt_id": f"{domain}{k}",
            }
            for domain, count in domains.items()
            for k in range(count)
            for n in range(2)
        ]
    )


def test_a_share_of_the_prompts_of_each_domain_with_all_their_rows():
    dataset = rows_of(law=10, art=3, sport=1)
    taken = sample_prompts(dataset, 0.3, 0)
    prompts = set(taken["prompt_id"])
    assert len(taken) == 2 * len(prompts)
    assert [sum(p.startswith(d) for p in prompts) for d in ("law", "art", "sport")] == [3, 1, 1]
    assert taken["prompt_id"] == [p for p in dataset["prompt_id"] if p in prompts]  # in the order of the set
    assert sample_prompts(dataset, 0.3, 0)["prompt_id"] == taken["prompt_id"]
    assert any(sample_prompts(dataset, 0.3, seed)["prompt_id"] != taken["prompt_id"] for seed in range(1, 5))


def test_rows_without_tags_or_prompts_are_drawn_one_by_one():
    bare = Dataset.from_list([{"chosen": f"a{k}", "rejected": "b"} for k in range(10)])
    assert len(sample_prompts(bare, 0.25, 0)) == 3


def test_sets_of_one_size_have_draws_of_their_own():
    found = sample_sets({"a": rows_of(law=40), "b": rows_of(law=40)}, 0.1, 0)
    assert list(found) == ["a_sample", "b_sample"]
    assert found["a_sample"]["prompt_id"] != found["b_sample"]["prompt_id"]


@pytest.mark.parametrize(
    "sets, message",
    [
        ({"a": rows_of(law=2), "a_sample": rows_of(law=2)}, "'a_sample' has the name .* of another"),
        ({"a": [1, 2]}, "the test set 'a' is a list, not"),
    ],
)
def test_sets_that_have_no_sample_are_refused(sets, message):
    with pytest.raises(InputError, match=message):
        sample_sets(sets, 0.5, 0)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(make_trainer, rows, fraction):
    with pytest.raises(InputError, match=r"`eval_curve_fraction` is .*; it must be a number above 0 and at most 1"):
        make_trainer(rows.pairs(2), eval_curve_fraction=fraction)


def test_the_curve_is_of_the_sample_and_both_ends_of_the_whole(make_trainer, rows, tmp_path):
    sets = {"a": rows.pairs(9), "b": rows.ranked(4)}
    options = {
        "eval_rows": sets, "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps",
        "save_steps": 1, "max_steps": 3, "eval_curve_fraction": 0.34, "metric_for_best_model": "a_sample_accuracy",
        "load_best_model_at_end": False,
    }  # fmt: skip
    trainer = make_trainer(rows.pairs(16), **options)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "eval_a_sample_accuracy" in log]
    assert [log["step"] for log in logs] == [0, 1, 2, 3]
    assert [log["step"] for log in logs if "eval_a_accuracy" in log] == [0, 3]
    assert [log["eval_a_sample_num_pairs"] for log in logs] == [4] * 4
    assert logs[-1]["eval_a_num_pairs"] == 9
    assert trainer.evaluated_step() == 3
    assert list(trainer.results()) == ["a", "b"] and trainer.results(step=1) == {}

    for step in (2, 3):
        shutil.rmtree(f"{trainer.args.output_dir}/checkpoint-{step}")
    again = make_trainer(rows.pairs(16), **options)
    again.train(resume_from_checkpoint=True)
    for log, other in zip(logs[2:], [log for log in again.state.log_history if "eval_a_sample_loss" in log][-2:]):
        assert {k: v for k, v in log.items() if "sample_" in k and "per_second" not in k}.items() <= other.items()
    with pytest.raises(InputError, match=r"other settings \(eval_curve_fraction\)[\s\S]*would be for different rows"):
        make_trainer(rows.pairs(16), **{**options, "eval_curve_fraction": 0.5}).train(resume_from_checkpoint=True)
    with pytest.raises(
        InputError, match=r"with `eval_curve_fraction` 0\.34 that is measured at the start and at the end"
    ):
        make_trainer(rows.pairs(16), **{**options, "metric_for_best_model": "a_accuracy"})
    with pytest.raises(InputError, match="the test sets will not report 'eval_a_sample_accuracy'"):
        check_best_metric(make_trainer(rows.pairs(16), **{**options, "eval_curve_fraction": 1.0}).args, sets)


LOG = [
    {"step": 0, "eval_a_accuracy": 0.5, "eval_a_first_two_accuracy": 0.5, "eval_a_sample_accuracy": 0.4},
    {"step": 1, "eval_a_sample_accuracy": 0.6, "eval_a_sample_first_two_accuracy": 0.6},
    {"step": 2, "eval_a_accuracy": 0.9, "eval_a_first_two_accuracy": 0.9, "eval_a_sample_accuracy": 0.8},
]


def test_a_sample_is_no_result_and_has_the_curve():
    assert last_evaluated_step(LOG[:2], ["a"]) == 0
    assert results_of(LOG[:2], ["a"]) == {"a": {"accuracy": 0.5, "first_two_accuracy": 0.5}}
    assert last_evaluated_step(LOG[:2], ["a_sample"]) == 1  # here this is the name of a set
    assert accuracy_points(LOG, 1) == {"a_sample": [(0, 0.4), (1, 0.6), (2, 0.8)]}
