"""What a run must know, beyond the Trainer's own state, to go on as if it had never stopped."""

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
    """The checkpoint stands at the end of training: what is left is what comes after it."""


@dataclass
class RunProgress:
    """
    What stands between two logs when a checkpoint is written, and what the step still has before it.

    Args:
        loss (`list[float]`): Sum of the losses since the last log, of each process.
        sums (`list`): What [`~rm_toolkit.training.meter.Meter`] has counted since then, of each process.
        steps_counted (`int`): Steps of these sums.
        last_logged (`int`): Step of the last log.
        total_loss (`float`): Sum of all losses logged so far, and `first_step` the step it begins at.
        seconds (`float`): Time that the run has taken so far.
        grad_norm, learning_rate (`float`): Of this step, for a log that comes after the checkpoint.
        log, evaluate (`bool`): Whether such a log, and an evaluation, still belong to this step.
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
                f"{folder} cannot be resumed from: its `{PROGRESS_NAME}` cannot be read ({error}). Take another one."
            ) from error

    def share(self, rank: int, num_processes: int) -> tuple[float, list[float] | None]:
        """
        Returns the loss and the sums that one process goes on from; with other processes than before, what all of them
        had counted is shared out anew.
        """
        if len(self.loss) == num_processes:
            return self.loss[rank], self.sums[rank]
        known = [entry for entry in self.sums if entry is not None]
        sums = [sum(values) for values in zip(*known)] if known else None
        sums = sums if rank == 0 or sums is None else [0.0] * len(sums)
        return sum(self.loss) / len(self.loss), sums


def whole_run_speed(logs: dict[str, float], seconds_before: float) -> None:
    """
    Corrects the speeds of a resumed run in place: its counts are those of the whole run, and so is the time.

    Args:
        logs (`dict[str, float]`): The last log of a run; any other is left alone.
        seconds_before (`float`): What the run had taken when it was resumed.
    """
    runtime = logs.get("train_runtime")
    if not runtime or not seconds_before:
        return
    for key in ("train_samples_per_second", "train_steps_per_second"):
        if key in logs:
            logs[key] = round(logs[key] * runtime / (runtime + seconds_before), 3)
    logs["train_runtime"] = round(runtime + seconds_before, 4)
