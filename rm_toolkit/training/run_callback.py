"""Connects the objects of a run to the hooks of transformers' loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from .anchor import set_anchor
from .resume_checks import apply_new_schedule
from .run_progress import RunFinished, RunProgress
from .upstream import TrainerHooks


class RunCallback(TrainerCallback):
    """
    Tells the objects of a run where its loop is, and saves and restores [`RunProgress`].

    Args:
        trainer (`RewardModelTrainer`): Its objects, and the state of its loop.
    """

    def __init__(self, trainer: TrainerHooks):
        self.trainer = trainer
        self.folder: str | None = None  # to resume from
        self.begin = time.time()
        self.seconds_before = 0.0
        self.learning_rate: float | None = None
        self.at_epoch_end = False
        self._position_from: str | None = None

    def on_train_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        trainer = self.trainer
        self.begin, self.seconds_before, self._position_from = time.time(), 0.0, self.folder
        if self.folder is not None:
            state.compute_steps(
                args, state.max_steps
            )  # intervals of logs and saves: this launch's, not the checkpoint's
            if trainer.given_optimizers[1] is None:
                apply_new_schedule(trainer.run_identity, lr_scheduler, args.learning_rate)
            self._restore(RunProgress.load(self.folder), state, control)
        if args.anchor_coef:
            fresh = state.global_step == 0  # later the weights are no longer the general model's
            compute_rewards = trainer.compute_rewards if fresh else None
            data, folder = trainer.data, args.output_dir
            set_anchor(data.joined, data.replay, folder, compute_rewards=compute_rewards, save=args.should_save)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.at_epoch_end = False
        self.trainer.steps.begin_epoch(state.global_step)
        if self._position_from is not None:  # before the loop reads its first step
            self.trainer.steps.restore(self._position_from)
            self._position_from = None

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.meter.begin()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.learning_rate = self.trainer.current_learning_rate()

    def on_step_end(self, args, state, control, **kwargs):
        epoch = self.trainer.steps.epoch(state.global_step, state.max_steps)
        state.epoch = state.epoch if epoch is None else epoch  # the loop would restart at 0
        stop = self.trainer.stop
        if not stop.signal:
            return
        # Save and exit; everything else that is due is left to the resumed run.
        if args.save_strategy == SaveStrategy.NO:
            stop.leave(state.global_step, None)
        stop.evaluation_put_off = control.should_evaluate
        control.should_save, control.should_evaluate = True, False

    def on_epoch_end(self, args, state, control, **kwargs):
        self.at_epoch_end = True

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.steps.report()
        if self.trainer.copies is not None:
            self.trainer.copies.drop()

    def progress(self) -> RunProgress:
        """Records the progress of the run; called by all processes together."""
        trainer, args, state = self.trainer, self.trainer.args, self.trainer.state
        loss, norm = trainer.loss_state(), trainer.grad_norm
        every = gather_object([{"loss": loss.pop("loss"), "sums": trainer.meter.state()}])
        # The loop's work at the end of an epoch comes after this checkpoint.
        comes = not self.at_epoch_end and (float(state.epoch).is_integer() or state.global_step >= state.max_steps)
        return RunProgress(
            loss=[entry["loss"] for entry in every],
            sums=[entry["sums"] for entry in every],
            steps_counted=trainer.meter.steps,
            **loss,
            seconds=self.seconds_before + time.time() - self.begin,
            grad_norm=norm.item() if isinstance(norm, torch.Tensor) else norm,
            learning_rate=self.learning_rate,
            log=comes and args.logging_strategy == "epoch",
            evaluate=trainer.stop.evaluation_put_off or (comes and args.eval_strategy == "epoch"),
            ended=trainer.control.should_training_stop and state.global_step < state.max_steps,
        )

    def _restore(self, progress: RunProgress, state: Any, control: Any) -> None:
        trainer, args = self.trainer, self.trainer.args
        loss, sums = progress.share(args.process_index, args.world_size)
        trainer.restore_loss_state(loss, progress.last_logged, progress.total_loss, progress.first_step)
        trainer.meter.restore(sums, progress.steps_counted, args.device)
        self.seconds_before = progress.seconds
        if progress.log or progress.evaluate:
            self._make_up_for(progress, state, control)
        if "total_steps" in trainer.run_identity.accepted and not progress.ended:
            control.should_training_stop = control.should_epoch_stop = False  # of the end of an earlier, shorter run
        # The loop would do one more step before it checks.
        if progress.ended or control.should_training_stop or state.global_step >= state.max_steps:
            raise RunFinished

    def _make_up_for(self, progress: RunProgress, state: Any, control: Any) -> None:
        """The log and the evaluation that the interrupted run still had to do at this step."""
        trainer = self.trainer
        control.should_log, control.should_evaluate, control.should_save = progress.log, progress.evaluate, False
        trainer.control = control
        trainer.make_up_step(progress.grad_norm, progress.learning_rate)
        best = Path(trainer.args.output_dir, f"checkpoint-{state.best_global_step}")
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)
