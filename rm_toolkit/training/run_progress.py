"""What a run needs, beyond the Trainer's own state, to resume as if it had never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..output.json_files import load_json


PROGRESS_NAME = "run_progress.json"


class RunFinished(Exception):
    """Raised if a checkpoint is at the end of training: only the work after the last step is left."""


@dataclass
class RunProgress:
    """
    State between two logs when a checkpoint is written, and the work that the step still has to do.

    Args:
        loss (`list[float]`): Sum of the losses since the last log, per process.
        sums (`list`): Sums of [`~rm_toolkit.training.meter.Meter`] since then, per process.
        steps_counted (`int`): Number of steps in these sums.
        last_logged (`int`): Step of the last log.
        total_loss (`float`): Sum of all losses logged so far; `first_step` is the step it begins at.
        seconds (`float`): Duration of the run so far, in seconds.
        grad_norm, learning_rate (`float`): Values of this step, for a log that comes after the checkpoint.
        log, evaluate (`bool`): Whether this step still has to log, and to evaluate.
        ended (`bool`): Whether training was over before its last step (early stopping).
    """

    loss: list[float]
    sums: list[list[float] | None]
    steps_counted: int
    last_logged: int
    total_loss: float
    first_step: int
    seconds: float
    grad_norm: float | None
    learning_rate: float | None
    log: bool
    evaluate: bool
    ended: bool

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `run_progress.json`; JSON keeps every bit of a float."""
        Path(folder, PROGRESS_NAME).write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> RunProgress:
        """
        Raises:
            `InputError`: if the checkpoint has none.
        """
        try:
            return cls(**load_json(Path(folder, PROGRESS_NAME)))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{folder} cannot be resumed from: its `{PROGRESS_NAME}` cannot be read ({error}). Use another one."
            ) from error

    def share(self, rank: int, num_processes: int) -> tuple[float, list[float] | None]:
        """
        Returns the loss and the sums that one process continues from; if the number of processes has changed, the
        totals are divided among them again.
        """
        if len(self.loss) == num_processes:
            return self.loss[rank], self.sums[rank]
        known = [entry for entry in self.sums if entry is not None]
        sums = [sum(values) for values in zip(*known)] if known else None
        sums = sums if rank == 0 or sums is None else [0.0] * len(sums)
        return sum(self.loss) / len(self.loss), sums


def whole_run_speed(logs: dict[str, float], seconds_before: float) -> None:
    """
    Corrects the speeds of a resumed run in place: counts are of the whole run, so the time must be too.

    Args:
        logs (`dict[str, float]`): The last log of a run; any other is left alone.
        seconds_before (`float`): Duration of the run before it was resumed, in seconds.
    """
    runtime = logs.get("train_runtime")
    if not runtime or not seconds_before:
        return
    for key in ("train_samples_per_second", "train_steps_per_second"):
        if key in logs:
            logs[key] = round(logs[key] * runtime / (runtime + seconds_before), 3)
    logs["train_runtime"] = round(runtime + seconds_before, 4)
