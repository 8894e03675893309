"""Checks that the metric that picks the best checkpoint, stops a run early or lowers its rate will be measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..errors import InputError, did_you_mean, name_list
from ..evaluation.metrics import PreferenceMetrics
from .curve_sample import sampled_name


PREFERENCE_METRICS = tuple(field.name for field in fields(PreferenceMetrics))
SPEED_METRICS = (
    "runtime",
    "samples_per_second",
    "steps_per_second",
)  # of all sets together; no criterion for a best model
MOST_LISTED = 20  # names in an error
SCHEDULES_BY_METRIC = ("reduce_lr_on_plateau", "greedy")


def check_best_metric(
    args: TrainingArguments,
    eval_dataset: Any,
    callbacks: Iterable[Any] | None = None,
    metrics: tuple[str, ...] = PREFERENCE_METRICS,
    of_all_sets: tuple[str, ...] = (),
) -> None:
    """
    Refuses a `metric_for_best_model` that no evaluation of the run will report, before anything is computed.

    Args:
        args (`TrainingArguments`): Of the run. `metric_for_best_model` counts with and without `eval_` in front.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): Test sets; with a dict, metrics are named after
            its keys.
        callbacks (*optional*): Callbacks of the run; `EarlyStoppingCallback` reads the metric.
        metrics (`tuple[str, ...]`): Metrics measured on each set.
        of_all_sets (`tuple[str, ...]`): Other metrics, whose names have no set in them.

    Raises:
        `InputError`: naming what needs the metric, and the metrics that will be reported.
    """
    users = _users(args, callbacks)
    metric = args.metric_for_best_model or None
    if metric is None and not users:
        return
    if metric is None:
        raise InputError(
            f"{users[0]} needs `metric_for_best_model`, which is not set; set it, for example to "
            f"'{next(iter(_metric_names(_curve_sets(args, eval_dataset), metrics)), 'eval_NAME_accuracy')}'."
        )
    needed = f"`metric_for_best_model` is '{metric}'" + (f", for {', '.join(users)}" if users else "")
    if args.eval_strategy == IntervalStrategy.NO:
        raise InputError(
            f"{needed}, but `eval_strategy` is 'no': it is never measured. Set `eval_strategy` to 'steps' or 'epoch', or "
            "leave the metric out."
        )
    if eval_dataset is None or eval_dataset == {}:
        raise InputError(
            f"{needed}, but there is no test set to measure it on. Name one: --eval_datasets NAME=SPEC (in Python, "
            "`eval_dataset`), or leave the metric out."
        )
    fraction = getattr(args, "eval_curve_fraction", 1.0)
    whole, eval_dataset = _metric_names(eval_dataset, metrics), _curve_sets(args, eval_dataset)
    known = _metric_names(eval_dataset, metrics)
    full = metric if metric.startswith("eval_") else f"eval_{metric}"
    if full not in [*known, *(f"eval_{name}" for name in (*of_all_sets, *SPEED_METRICS))]:
        if fraction < 1 and full in whole:
            raise InputError(
                f"{needed}, but with `eval_curve_fraction` {fraction:g} that is measured at the start and at the end "
                f"only. Between them there are {_listed(eval_dataset, metrics)}.{did_you_mean(full, known)}"
            )
        default = " (transformers' default)" if metric == "loss" else ""
        raise InputError(
            f"{needed}{default}, but the test sets will not report '{full}', only {_listed(eval_dataset, metrics)}."
            f"{did_you_mean(full, known) or ' Use one of these.'}"
        )


def _users(args: TrainingArguments, callbacks: Iterable[Any] | None) -> list[str]:
    """The parts of a run that read the metric."""
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    users = {
        "`load_best_model_at_end`": args.load_best_model_at_end,
        "`save_strategy: best`": args.save_strategy == SaveStrategy.BEST,
        f"`lr_scheduler_type: {schedule}`": schedule in SCHEDULES_BY_METRIC,
        "early stopping": any(_is_early_stopping(callback) for callback in callbacks or ()),
    }
    return [name for name, is_used in users.items() if is_used]


def _is_early_stopping(callback: Any) -> bool:
    return isinstance(callback, EarlyStoppingCallback) or callback is EarlyStoppingCallback


def _curve_sets(args: TrainingArguments, eval_dataset: Any) -> Any:
    """The test sets under the names that they have between the first and the last step."""
    if getattr(args, "eval_curve_fraction", 1.0) == 1.0 or eval_dataset is None:
        return eval_dataset
    sets = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
    return {sampled_name(name): rows for name, rows in sets.items()}


def _listed(eval_dataset: Any, metrics: tuple[str, ...]) -> str:
    names = _metric_names(eval_dataset, metrics)
    if len(names) <= MOST_LISTED:
        return name_list(names)
    return f"'eval_NAME_METRIC' with NAME one of {name_list(eval_dataset)} and METRIC one of {name_list(metrics)}"


def _metric_names(eval_dataset: Any, metrics: tuple[str, ...]) -> list[str]:
    sets = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
    return [f"eval_{name}_{metric}" if name else f"eval_{metric}" for name in sets for metric in metrics]
