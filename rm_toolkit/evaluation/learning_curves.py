"""Accuracy over the course of training, from what a run logged beside its model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.files import TRAINING_LOG_NAME
from ..models.settings import RewardModelSettings
from ..output.json_files import load_json


@dataclass
class LearningCurves:
    """
    Accuracy of each test set over training.

    Args:
        unit (`str`): Unit of the positions: `"training pairs"`, or `"optimizer steps"` if the log does not say how many
            pairs a step had.
        points (`dict[str, list[tuple[float, float]]]`): For each test set, (position, accuracy) in order.
        customized (`list[str]`): The test sets of the domain that the run customized for; the others are general.
    """

    unit: str
    points: dict[str, list[tuple[float, float]]]
    customized: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Returns the curves for JSON."""
        points = {name: [list(point) for point in curve] for name, curve in self.points.items()}
        return {"unit": self.unit, "customized": self.customized, "accuracy": points}


def read_learning_curves(folder: str | Path, settings: RewardModelSettings | None = None) -> LearningCurves | None:
    """
    Reads the log of the run that wrote a model folder: `training_log.json`, or a `trainer_state.json` of the Trainer.

    Args:
        folder (`str` or `Path`): Folder of a model.
        settings (`RewardModelSettings`, *optional*): Its settings; their domain decides which test sets are customized.

    Returns:
        `LearningCurves` or `None`: `None` if there is no log, or it has fewer than two evaluations.

    Raises:
        `InputError`: if the log exists but cannot be read.
    """
    path = next((p for name in (TRAINING_LOG_NAME, "trainer_state.json") if (p := Path(folder, name)).is_file()), None)
    if path is None:
        return None
    try:
        log = load_json(path)
        history, pairs_per_step = log["log_history"], log.get("pairs_per_step")
        points = accuracy_points(history, pairs_per_step or 1)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a training log ({error}). Restore or remove the file.") from error
    if not points:
        return None
    domain = settings.domain if settings else None
    customized = [name for name in points if domain and domain in name]
    return LearningCurves("training pairs" if pairs_per_step else "optimizer steps", points, customized)


def accuracy_points(history: list[dict[str, Any]], per_step: float) -> dict[str, list[tuple[float, float]]]:
    """
    Extracts the accuracy of every test set from a log. Sets with fewer than two evaluations are left out. So are sets of
    which only a sample (`NAME_sample`, see `eval_curve_fraction`) was evaluated during training: the sample has the curve.

    Args:
        history (`list[dict]`): `log_history` of a run.
        per_step (`float`): Units per optimizer step.
    """
    found: dict[str, dict[int, float]] = {}
    for log in history:
        for key, value in log.items():
            if not key.startswith("eval_") or not key.endswith("accuracy") or key.endswith("first_two_accuracy"):
                continue
            if value is not None:  # a set without any pair
                name = key.removeprefix("eval_").removesuffix("accuracy").rstrip("_") or "eval"
                found.setdefault(name, {})[log["step"]] = value
    return {
        name: [(step * per_step, value) for step, value in sorted(steps.items())]
        for name, steps in found.items()
        if len(steps) > 1 and ("sample" if name == "eval" else f"{name}_sample") not in found
    }
