"""A run as seen from its folder, during and after training: its progress and its log."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.files import FINAL_RESULTS_NAME, TRAINING_LOG_NAME
from ..models.settings import load_settings
from ..output.holder import living_holder
from ..output.json_files import load_json
from ..output.lock import lock_path
from ..output.written import RUN_MANIFEST
from .manifest import checkpoints
from .results import results_of


TRAINER_STATE_NAME = "trainer_state.json"
RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"
# Keys of a log that are not part of the training curves.
NOT_SHOWN = re.compile(
    r"step|epoch|total_flos|train_.*|.*_(runtime|samples_per_second|steps_per_second|num_pairs|num_ties|num_label_ties)"
)


@dataclass
class WatchedRun:
    """
    What the folder of a run shows.

    Args:
        folder (`Path`): The folder.
        state (`str`): `running` (a process writes it), `finished` (it has results) or `stopped`.
        history (`list[dict]`): The log, each entry with its `step`.
        max_steps (`int`, *optional*): Optimizer steps of the whole run.
        since (`str`, *optional*): When the process that writes it now began.
        stage (`str`, *optional*): Stage and domain of the model, once it is saved.
        unseen (`str`, *optional*): Where the process is that writes it, if it cannot be seen from here, and its last sign
            of life.
    """

    folder: Path
    state: str
    history: list[dict[str, Any]] = field(default_factory=list)
    max_steps: int | None = None
    since: str | None = None
    stage: str | None = None
    unseen: str | None = None

    @property
    def step(self) -> int:
        """The last step in the log."""
        return int(max((log["step"] for log in self.history), default=0))

    def series(self) -> dict[str, list[tuple[float, float]]]:
        """Returns the logged values of each name, as (step, value); for a step that was logged twice, the last."""
        found: dict[str, dict[float, float]] = {}
        for log in self.history:
            for name, value in log.items():
                if not NOT_SHOWN.fullmatch(name) and _is_number(value):
                    found.setdefault(name, {})[log["step"]] = value
        return {name: sorted(points.items()) for name, points in found.items()}

    def results(self) -> list[tuple[str, dict[str, float], dict[str, float]]]:
        """Returns the metrics of the first and of the last evaluation of each test set."""
        first: dict[str, dict[str, float]] = {}
        last: dict[str, dict[str, float]] = {}
        for step in dict.fromkeys(log["step"] for log in self.history):
            for name, values in results_of(self.history, step=step).items():
                last[name] = {**values, "step": step}
                first.setdefault(name, last[name])
        return [(name, first[name], last[name]) for name in last]


def read_run(folder: str | Path) -> WatchedRun:
    """
    Reads the folder of a run without changing it.

    Args:
        folder (`str` or `Path`): The `output_dir` of a run.

    Raises:
        `InputError`: if it has no run, or the log cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the `output_dir` of a run.")
    held = living_holder(lock_path(folder))
    log = _find_log(folder)
    if log is None and not (folder / RUN_MANIFEST).is_file():
        raise InputError(
            f"{folder} is not the folder of a run: it has no `{TRAINING_LOG_NAME}`, no checkpoint and no "
            f"`{RUN_MANIFEST}`. Give "
            "the `output_dir` of a run that has begun."
        )
    finished = (folder / FINAL_RESULTS_NAME).is_file() or (
        log is not None and log.parent == folder and log.name == TRAINER_STATE_NAME
    )
    run = WatchedRun(folder, RUNNING if held else FINISHED if finished else STOPPED)
    if held is not None:
        holder, age = held
        run.since = holder.since
        if age is not None:
            run.unseen = f"on host {holder.host}, last sign of life {age:.0f} s ago"
    if log is not None:
        run.history, run.max_steps = _read_log(log)
    settings = load_settings(str(folder))
    if settings is not None:
        run.stage = " ".join(part for part in (settings.stage, settings.domain) if part) or None
    return run


def _find_log(folder: Path) -> Path | None:
    """The log of a run; for the base-LM stage and earlier versions, the one of transformers."""
    found = [folder / TRAINING_LOG_NAME, folder / TRAINER_STATE_NAME]
    found += [path / TRAINER_STATE_NAME for _, path in sorted(checkpoints(folder).items(), reverse=True)]
    return next((path for path in found if path.is_file()), None)


def _read_log(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    try:
        values = load_json(path)
        history, steps = values["log_history"], values.get("max_steps")
        if not all(isinstance(log, dict) and _is_number(log.get("step")) for log in history):
            raise ValueError("an entry has no `step`")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a training log ({error}). Restore or remove the file.") from error
    return history, int(steps) if _is_number(steps) and steps > 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
