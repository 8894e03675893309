"""How a run survives: whole checkpoints, exact resumption, stops by signal, and an end at the first NaN."""

from __future__ import annotations

import math
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any

import torch
from accelerate.utils import DistributedType
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import SaveStrategy, TrainOutput

from ..batches.collator import MicroBatch
from ..batches.stream import PreferenceStream
from ..output.written import record_written
from .best_model import check_best_metric
from .disk_errors import named_disk_errors
from .finite import StepWatch, row_tags
from .manifest import clear_leftovers, remove_checkpoint, rotate, write_manifest
from .output_dir import hold_output_dir
from .resume import identify_run
from .resume_from import checked_checkpoint
from .resuming import ResumeCallback, RunFinished, whole_run_speed
from .run_files import RecordReports, begin_run
from .run_identity import RunIdentity
from .stopping import RunStopped, StopEvaluation, StopSignals, agree


TURNS_BETWEEN_CHECKS = 16  # of an evaluation on several processes


class SurvivalMixin:
    """Stopping and going on for [`~rm_toolkit.training.trainer.RewardModelTrainer`]."""

    signals: StopSignals | None = None
    stop_signal = 0
    _saved_step: int | None = None  # the step of the checkpoint that was written or resumed from last
    _evaluation_put_off = False
    _evaluating = False
    run_identity: RunIdentity | None = None

    def prepare_to_survive(self, *row_sources: Any) -> None:
        """
        Called once, when the trainer is built.

        Args:
            row_sources: The data sets whose rows make the training data, in their order; they name a row in errors.
        """
        self.watch = StepWatch(self)
        self.resuming = ResumeCallback(self)
        self.row_sources = row_sources
        self.data_content: dict[str, Any] = {}  # what a recipe knows of the content of its data
        self.given_optimizers = (self.optimizer, self.lr_scheduler)
        self.args.logging_nan_inf_filter = False  # such a loss ends the run; the filter would hide it, at two syncs
        self.add_callback(self.resuming)
        self.add_callback(_StopCallback(self))
        self.add_callback(RecordReports(self.args.output_dir))

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """
        Trains, or goes on from a checkpoint in `output_dir` as if the run had never stopped.

        SIGTERM makes all processes write a checkpoint at the end of the same step and exit with code 143; SIGINT does
        the same and raises `KeyboardInterrupt`.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): The checkpoint; `True` takes the newest whole one.
            **options: As in `transformers.Trainer.train`.

        Raises:
            `InputError`: if another process writes `output_dir`, the checkpoint cannot be resumed from or was made with
                other data or settings, a loss is no number, or the disk is full.
        """
        check_best_metric(self.args, self.eval_dataset, self.callback_handler.callbacks)
        with hold_output_dir(self.args.output_dir):
            return self._train_alone(resume_from_checkpoint, options)

    def _train_alone(self, resume_from_checkpoint: str | bool | None, options: dict[str, Any]) -> TrainOutput:
        folder = checked_checkpoint(resume_from_checkpoint, self.args.output_dir)
        saves = self.args.save_strategy != SaveStrategy.NO
        self.run_identity = identify_run(self, folder) if folder or saves else None
        self._saved_step = int(Path(folder).name.rpartition("-")[2]) if folder else None
        self.resuming.folder, self._evaluation_put_off, self.stop_signal = folder, False, 0
        if folder:
            self.args.eval_on_start = False  # the start of the run is in its log already
        if self.args.should_save:
            begin_run(self.args.output_dir)
            clear_leftovers(self.args.output_dir, self._saved_step)
        self.accelerator.wait_for_everyone()
        with StopSignals() as self.signals:
            try:
                with named_disk_errors(self.args.output_dir):
                    return super().train(resume_from_checkpoint=folder, **options)
            except RunFinished:
                return self._finalize_training(None, 0, self.resuming.begin)
            except (RunStopped, KeyboardInterrupt):
                self.callback_handler.on_train_end(self.args, self.state, self.control)
                raise
            finally:
                self.signals = None

    # ---- the step ----

    def _count(self, batch: MicroBatch, rewards: torch.Tensor, *losses: torch.Tensor) -> None:
        self.watch.add(batch, rewards, losses)
        super()._count(batch, rewards, *losses)

    def check_step(self, loss: torch.Tensor, grad_norm: torch.Tensor | float | None = None) -> None:
        """
        Ends the run on all processes if a loss or gradient is no number; hears of signals. One sync a step.

        Args:
            loss (`torch.Tensor` of shape `()`): This process's share of the step's loss.
            grad_norm (`torch.Tensor` or `float`, *optional*): Norm of the step's gradient, where it is known already.

        Raises:
            `InputError`: naming the rows.
        """
        received = self.signals.received if self.signals else 0
        bad_norm: torch.Tensor | float = 0.0
        if grad_norm is not None and self.accelerator.scaler is None:  # fp16: the scaler skips such a step by itself
            norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm  # FSDP2 shards it
            bad_norm = ~torch.isfinite(torch.as_tensor(norm))
        flags = [~torch.isfinite(loss), bad_norm, float(received == SIGTERM), float(received == SIGINT)]
        bad_loss, bad_norm, terminated, interrupted = agree(flags, self.accelerator)
        if bad_loss:
            raise self.watch.error("loss", loss.item())
        if bad_norm:
            raise self.watch.error("gradient norm", float(grad_norm))
        self.stop_signal = SIGTERM if terminated else SIGINT if interrupted else 0

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.resuming.grad_norm = norm
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            self.check_step(self.step_loss, norm)
        elif norm is not None and not math.isfinite(norm) and not self.args.fp16:
            raise self.watch.error("gradient norm", norm)
        return norm

    def row_tags(self, row: int) -> str:
        """Returns what the data say of a row of the training data, for messages."""
        if isinstance(self.train_dataset, PreferenceStream):
            return ""  # its rows have passed
        first_replayed = int(self.train_dataset.row.max()) + 1
        replayed = row >= first_replayed
        tags = row_tags(self.row_sources[int(replayed)], row - first_replayed if replayed else row)
        return " (replayed)" + tags if replayed else tags

    # ---- evaluation ----

    def check_evaluation(self, turn: int) -> None:
        """
        Leaves an evaluation inside a run that is told to stop; called by all processes at the same turns.

        Args:
            turn (`int`): Number of the batch.
        """
        several = self.accelerator.num_processes > 1
        if not self._evaluating or self.signals is None or (several and turn % TURNS_BETWEEN_CHECKS):
            return
        received = self.signals.received
        if several:
            flags = [float(received == SIGTERM), float(received == SIGINT)]
            terminated, interrupted = agree(flags, self.accelerator)
            received = SIGTERM if terminated else SIGINT if interrupted else 0
        if received:
            self.stop_signal = received
            raise StopEvaluation

    def _evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        self._evaluating = True
        try:
            return super()._evaluate(*args, **options)
        except StopEvaluation:
            step = self.state.global_step
            if step == 0 or self.args.save_strategy == SaveStrategy.NO:
                self._leave(None)
            if step == self._saved_step:  # which says already that the evaluation is still to come
                self._leave(self._checkpoint_folder())
            self._evaluation_put_off = self.control.should_save = True
            return {}
        finally:
            self._evaluating = False

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if self._evaluation_put_off:
            return True  # `save_strategy: best` asks this whether to save; the run is about to stop
        return super()._determine_best_metric(metrics, trial)

    # ---- checkpoints ----

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = self._checkpoint_folder()
        if self.state.global_step != self._saved_step:
            if self.args.should_save:
                record_written(self.args.output_dir, [f"{folder.name}/"])
                if folder.exists():
                    remove_checkpoint(folder)
            self.accelerator.wait_for_everyone()
            self._write_checkpoint(folder, model, trial)
            self._saved_step = self.state.global_step
        if self.stop_signal:
            self._leave(folder)

    def _write_checkpoint(self, folder: Path, model: torch.nn.Module, trial: Any) -> None:
        # The Trainer would remove older checkpoints before this one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with named_disk_errors(self.args.output_dir, folder):
                # TRL's own override writes a generic model card at every checkpoint; ours comes with the results.
                Trainer._save_checkpoint(self, model, trial)
                progress = self.resuming.progress(evaluate=self._evaluation_put_off)
                self.run_identity = self.run_identity or identify_run(self, None)
                if self.args.should_save:
                    progress.save(folder)
                    self.run_identity.save(folder)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    write_manifest(folder, self.args.world_size)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate(self.args.output_dir, limit, str(folder), self.state.best_model_checkpoint)
        # A launcher ends the others as soon as the first process has left.
        self.accelerator.wait_for_everyone()

    def _checkpoint_folder(self) -> Path:
        return Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")

    def _leave(self, folder: Path | None) -> None:
        if self.accelerator.is_main_process:
            name = Signals(self.stop_signal).name
            saved = (
                f"{folder} is complete; go on with --resume_from_checkpoint auto." if folder else "Nothing was saved."
            )
            tqdm.write(f"Stopped by {name} at step {self.state.global_step}. {saved}")
        raise self.signals.stop(self.stop_signal)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's; the speeds at the end of a resumed run are those of the whole run."""
        whole_run_speed(logs, self.resuming.seconds_before)
        super().log(logs, start_time)


class _StopCallback(TrainerCallback):
    """At the end of a step: if a stop was agreed on, save and leave; what else is due is put off to the resumed run."""

    def __init__(self, trainer: SurvivalMixin):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.watch.begin()

    def on_step_end(self, args, state, control, **kwargs):
        if not self.trainer.stop_signal:
            return
        if args.save_strategy == SaveStrategy.NO:
            self.trainer._leave(None)
        self.trainer._evaluation_put_off = control.should_evaluate
        control.should_save, control.should_evaluate = True, False
