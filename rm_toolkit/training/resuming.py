"""What a run must know, beyond the Trainer's own state, to go on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from ..errors import InputError
from .resume import apply_new_schedule


if TYPE_CHECKING:
    from .trainer import RewardModelTrainer

PROGRESS_NAME = "run_progress.json"


class RunFinished(Exception):
    """The checkpoint stands at the end of training: what is left is what comes after it."""


@dataclass
class RunProgress:
    """
    What stands between two logs when a checkpoint is written, and what the step still has before it.

    Args:
        loss (`list[float]`): Sum of the losses since the last log, of each process.
        sums (`list`): What [`~rm_toolkit.training.step_log.StepLogMixin`] has counted since then, of each process.
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
            return cls(**json.loads(Path(folder, PROGRESS_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{folder} cannot be resumed from: its `{PROGRESS_NAME}` cannot be read ({error}). Take another one."
            ) from error


class ResumeCallback(TrainerCallback):
    """
    Puts back what [`RunProgress`] holds, before anything is computed.

    Args:
        trainer (`RewardModelTrainer`): The trainer.
    """

    def __init__(self, trainer: RewardModelTrainer):
        self.trainer = trainer
        self.folder: str | None = None
        self.begin = time.time()
        self.seconds_before = 0.0
        self.learning_rate: float | None = None
        self.grad_norm: Any = None
        self.at_epoch_end = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.begin, self.seconds_before = time.time(), 0.0
        if self.folder is not None:
            state.compute_steps(args, state.max_steps)  # of logs and saves: this launch's, not the checkpoint's
            apply_new_schedule(self.trainer)
            self._restore(RunProgress.load(self.folder), state, control)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.at_epoch_end = False

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.learning_rate = self.trainer._get_learning_rate()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.at_epoch_end = True

    def progress(self, evaluate: bool) -> RunProgress:
        """
        Takes down where the run is; called by all processes together.

        Args:
            evaluate (`bool`): Whether the evaluation of this step has been put off to the resumed run.
        """
        trainer, state = self.trainer, self.trainer.state
        own = {
            "loss": trainer._tr_loss.item(),
            "sums": None if trainer._sums is None else trainer._sums.tolist(),
        }
        every = gather_object([own])
        # What the Trainer does at the end of an epoch comes after this checkpoint.
        comes = not self.at_epoch_end and (float(state.epoch).is_integer() or state.global_step >= state.max_steps)
        grad_norm = self.grad_norm.item() if isinstance(self.grad_norm, torch.Tensor) else self.grad_norm
        return RunProgress(
            loss=[entry["loss"] for entry in every],
            sums=[entry["sums"] for entry in every],
            steps_counted=trainer._steps_counted,
            last_logged=trainer._globalstep_last_logged,
            total_loss=trainer._total_loss_scalar,
            first_step=trainer._initial_global_step,
            seconds=self.seconds_before + time.time() - self.begin,
            grad_norm=grad_norm,
            learning_rate=self.learning_rate,
            log=comes and trainer.args.logging_strategy == "epoch",
            evaluate=evaluate or (comes and trainer.args.eval_strategy == "epoch"),
            ended=trainer.control.should_training_stop and state.global_step < state.max_steps,
        )

    def _restore(self, progress: RunProgress, state: Any, control: Any) -> None:
        trainer, args = self.trainer, self.trainer.args
        device, rank = args.device, args.process_index
        if len(progress.loss) == args.world_size:
            loss, sums = progress.loss[rank], progress.sums[rank]
        else:  # other processes than before: what all of them had counted is shared out anew
            loss = sum(progress.loss) / len(progress.loss)
            known = [entry for entry in progress.sums if entry is not None]
            sums = [sum(values) for values in zip(*known)] if known else None
            sums = sums if rank == 0 or sums is None else [0.0] * len(sums)
        trainer._tr_loss.fill_(loss)
        trainer._sums = None if sums is None else torch.tensor(sums, dtype=torch.float64, device=device)
        trainer._steps_counted = progress.steps_counted
        trainer._globalstep_last_logged = progress.last_logged
        trainer._total_loss_scalar, trainer._initial_global_step = progress.total_loss, progress.first_step
        self.seconds_before = progress.seconds
        if progress.log or progress.evaluate:
            self._make_up_for(progress, state, control)
        if "total_steps" in trainer.run_identity.accepted and not progress.ended:
            control.should_training_stop = control.should_epoch_stop = False  # of the end that no longer is one
        # The Trainer would take one step more before it looks.
        if progress.ended or control.should_training_stop or state.global_step >= state.max_steps:
            raise RunFinished

    def _make_up_for(self, progress: RunProgress, state: Any, control: Any) -> None:
        """The log and the evaluation that the interrupted run had still before it at this step."""
        trainer = self.trainer
        control.should_log, control.should_evaluate, control.should_save = progress.log, progress.evaluate, False
        trainer.control = control
        trainer._maybe_log_save_evaluate(
            trainer._tr_loss,
            progress.grad_norm,
            trainer.model_wrapped,
            None,
            state.epoch,
            None,
            None,
            learning_rate=progress.learning_rate,
        )
        best = Path(trainer.args.output_dir, f"checkpoint-{state.best_global_step}")
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)


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
