"""The results of a run: the metrics of each test set, read from its log, and the files they are written to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..evaluation.metrics import PreferenceMetrics
from ..evaluation.pair_rewards import PairRewards, write_final_pairs
from ..models.files import FINAL_PAIRS_NAME, FINAL_RESULTS_NAME, TRAINING_LOG_NAME
from ..output.folders import replace_text
from ..output.written import record_written
from .curve_sample import sampled_of


MARKER = "first_two_accuracy"  # in every evaluation, and nowhere else

Results = dict[str, dict[str, float]]


def results_of(log_history: list[dict[str, float]], order: Iterable[str] = (), step: int | None = None) -> Results:
    """
    Metrics of each test set at one step.

    Args:
        log_history (`list[dict]`): The log.
        order (`Iterable[str]`): Names of test sets, in the order to return. Their sampled parts (see
            [`~rm_toolkit.training.curve_sample`]) are not results.
        step (`int`, *optional*): Optimizer step; the last evaluated one by default.

    Returns:
        `dict[str, dict[str, float]]`: For each test set (`"eval"` if it has no name): accuracy, first_two_accuracy,
        margin, loss, reward_mean, reward_std, num_pairs, num_ties and num_label_ties. Empty if nothing was evaluated at
        that step.
    """
    order = list(order)
    logs = [log for log in log_history if _evaluated(log, order)]
    if step is not None:
        logs = [log for log in logs if log["step"] == step]
    if not logs:
        return {}
    keys = [item.name for item in dataclasses.fields(PreferenceMetrics)]
    found = {
        name: {key: logs[-1][prefix + key] for key in keys if prefix + key in logs[-1]}
        for name, prefix in _evaluated(logs[-1], order).items()
    }
    # A log that was read from a checkpoint has its keys in alphabetical order.
    names = [*(name for name in order if name in found), *(name for name in found if name not in order)]
    return {name: found[name] for name in names}


def last_evaluated_step(log_history: list[dict[str, float]], names: Iterable[str] = ()) -> int | None:
    """Returns the optimizer step of the last evaluation of whole test sets (of these names), or `None`."""
    names = list(names)
    steps = [log["step"] for log in log_history if _evaluated(log, names)]
    return steps[-1] if steps else None


def _evaluated(log: dict[str, float], names: list[str]) -> dict[str, str]:
    """
    The test sets that a log has metrics of, with the prefix of the metrics; without the sampled parts of `names`.
    """
    samples = sampled_of(names).keys() - set(names)
    prefixes = [key.removesuffix(MARKER) for key in log if key.endswith(f"_{MARKER}")]
    found = {prefix.removeprefix("eval_").removesuffix("_") or "eval": prefix for prefix in prefixes}
    return {name: prefix for name, prefix in found.items() if name not in samples}


def write_results(
    output_dir: str, results: dict[str, Results], log: dict[str, Any], pairs: dict[str, PairRewards]
) -> None:
    """
    Writes `final_eval_results.json`, `training_log.json` and, if the rewards are at hand, `final_eval_pairs.parquet`.

    Args:
        output_dir (`str`): Output folder of the run.
        results (`dict`): Every test set at the start and at the end.
        log (`dict`): The whole log, for learning curves.
        pairs (`dict[str, PairRewards]`): Rewards of the last evaluation in this process, by test set.
    """
    record_written(output_dir, [FINAL_RESULTS_NAME, FINAL_PAIRS_NAME, TRAINING_LOG_NAME])
    _write_json(results, Path(output_dir, FINAL_RESULTS_NAME))
    _write_json(log, Path(output_dir, TRAINING_LOG_NAME))
    write_final_pairs(output_dir, results["end"], pairs)


def write_log(output_dir: str, log: dict[str, Any]) -> None:
    """
    Writes only `training_log.json`, while a run trains.

    Args:
        output_dir, log: As in [`write_results`].
    """
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    record_written(output_dir, [TRAINING_LOG_NAME])
    _write_json(log, Path(output_dir, TRAINING_LOG_NAME))


def _write_json(values: Any, path: Path) -> None:
    replace_text(path, json.dumps(_nan_to_null(values), indent=2) + "\n")


def _nan_to_null(value: Any) -> Any:
    """JSON has no NaN: a metric with nothing to count is null."""
    if isinstance(value, dict):
        return {key: _nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_to_null(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
