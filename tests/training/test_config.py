"""Configuration: our defaults, the batch arithmetic, and every value that is refused."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
from trl import RewardConfig

from rm_toolkit.errors import InputError
from rm_toolkit.training.config import RewardModelConfig


@pytest.fixture
def config(tmp_path):
    def make(**options):
        return RewardModelConfig(**{"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", **options})

    return make


def test_defaults_on_a_cpu(config):
    defaults = config()
    assert (defaults.pooling_type, defaults.pair_weighting, defaults.lm_loss_on) == ("last", "pair", "text")
    assert (defaults.max_length, defaults.lm_loss_coef, defaults.lm_score_threshold) == (512, 0.0, 0.85)
    assert defaults.bf16 is False and defaults.group_by_prompt is True


def test_every_field_of_ours_says_what_it_means(config):
    names = {field.name for field in dataclasses.fields(RewardModelConfig)} - {
        field.name for field in dataclasses.fields(RewardConfig)
    }
    assert {"pooling_type", "lm_loss_coef", "pair_weighting", "pairs_per_step", "eval_at_start"} <= names
    for field in dataclasses.fields(RewardModelConfig):
        if field.name in names:
            assert len(field.metadata.get("help", "")) > 30, field.name


@pytest.mark.parametrize(
    "options, pairs_per_step, accumulation",
    [
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 12, 3),
        ({"per_device_train_batch_size": 4, "pairs_per_step": 64}, 64, 16),
        ({"per_device_train_batch_size": 64, "pairs_per_step": 64}, 64, 1),
    ],
)
def test_pairs_of_a_step_and_accumulation_follow_from_each_other(config, options, pairs_per_step, accumulation):
    made = config(**options)
    assert (made.pairs_per_step, made.gradient_accumulation_steps) == (pairs_per_step, accumulation)


@pytest.mark.parametrize("old", [True, False])
def test_the_names_of_others_are_accepted_without_a_warning(config, old):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = config(eval_at_start=old, gradient_checkpointing=old)
    assert made.eval_on_start is old
    assert made.activation_checkpointing is made.gradient_checkpointing is old


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"pooling_type": "mean"},
            r"`pooling_type` is 'mean'; it must be one of 'last', 'eos', 'average', 'max', 'cls'",
        ),
        ({"data_format": "json"}, r"`data_format` is 'json'; it must be one of 'text', 'chat'"),
        ({"padding_side": "both"}, r"`padding_side` is 'both'"),
        ({"lm_loss_on": "prompt"}, r"`lm_loss_on` is 'prompt'; it must be one of 'text', 'completion'"),
        ({"pair_weighting": "row"}, r"`pair_weighting` is 'row'; it must be one of 'pair', 'prompt'"),
        ({"lm_loss_coef": -0.1}, r"`lm_loss_coef` is -0.1; it must be a number from 0 to 1,000"),
        ({"lm_score_threshold": 1.5}, r"`lm_score_threshold` is 1.5; it must be a number from 0 to 1"),
        ({"max_length": 3}, r"`max_length` is 3; it must be a whole number of tokens from 4"),
        ({"max_length": None}, r"`max_length` is null; it must be a whole number"),
        ({"pooling_type": "cls", "lm_loss_coef": 0.1}, r"`lm_loss_coef` is above 0 with `pooling_type` 'cls'"),
        ({"pairs_per_step": 0}, r"`pairs_per_step` is 0"),
        (
            {"pairs_per_step": 12, "per_device_train_batch_size": 8},
            r"which 1 process\(es\) of 8 pairs .* multiple of 8",
        ),
        # TRL would add them to the tokenizer after it was prepared, and the saved one would give other tokens.
        ({"pad_token": "</s>"}, r"`pad_token` is '</s>'; set it on the tokenizer"),
        ({"eos_token": "</s>"}, r"`eos_token` is '</s>'; set it on the tokenizer"),
        ({"chat_template_path": "chatml.jinja"}, r"`chat_template_path` is 'chatml.jinja'; set it on the tokenizer"),
    ],
)
def test_values_that_are_refused(config, options, message):
    with pytest.raises(InputError, match=message):
        config(**options)


def test_the_loop_accumulates_nothing_and_reports_say_what_a_step_does(config):
    made = config(per_device_train_batch_size=2, gradient_accumulation_steps=3, logging_nan_inf_filter=True)
    args = made.for_one_batch_a_step(streaming=False)
    assert args.gradient_accumulation_steps == 1 and not args.ignore_data_skip and not args.logging_nan_inf_filter
    assert args.to_dict()["gradient_accumulation_steps"] == made.to_dict()["gradient_accumulation_steps"] == 3
    assert '"gradient_accumulation_steps": 3' in args.to_json_string()
    assert made.gradient_accumulation_steps == 3 and made.logging_nan_inf_filter, "what was given has been changed"
    assert made.for_one_batch_a_step(streaming=True).ignore_data_skip
