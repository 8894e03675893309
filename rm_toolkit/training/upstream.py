"""The one file that overrides or calls private members of transformers' and TRL's trainers; `test_upstream.py` compares them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers.trainer_utils import TrainOutput
from trl import RewardTrainer, SFTTrainer


@contextlib.contextmanager
def for_this_call(args: Any, **values: Any) -> Iterator[None]:
    """
    A context in which upstream, which has no hook for it, sees other values of some arguments; restored afterwards.
    """
    before = {name: getattr(args, name) for name in values}
    try:
        for name, value in values.items():
            setattr(args, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)


class TrainerHooks(RewardTrainer):
    """
    Public names for what [`~rm_toolkit.training.trainer.RewardModelTrainer`] does differently from TRL's trainer
    (defined there), and for the state of transformers' loop that it needs (defined here).
    """

    _tag_names = ["rm-toolkit", "trl", "reward-model"]
    _name = "Reward model"

    # ---- overrides ----

    def _send_telemetry(self) -> None:
        """Does nothing: no telemetry is sent. TRL's environment variable for this is left to the user."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        # TRL requires a `Dataset` before it calls this.
        return self.prepare_data(dataset, dataset_name)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        # `save_model` gathers the weights of every engine and then calls this; there is no hook in between.
        self.save_weights(output_dir or self.args.output_dir, state_dict)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # `on_save` comes after upstream has removed older checkpoints, and other callbacks may read this one in it.
        self.save_checkpoint()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        # Upstream's version does not know heads and adapters, and there is no hook for it. FSDP's own state is
        # complete.
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.load_weights(resume_from_checkpoint, model or self.model)

    def _load_best_model(self) -> None:
        # As above; `on_train_end` is too late to distinguish the last evaluation from one of these weights.
        self.before_other_weights()
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self.load_weights(self.state.best_model_checkpoint, self.model)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: a checkpoint is for resuming and has pickles; `hub_strategy: every_save` is the default."""

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        # `on_pre_optimizer_step` does not get the norm.
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.check_gradient(norm)
        return norm

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: TRL would write a generic card at every checkpoint; ours is written with the results."""

    # ---- calls ----

    def write_trainer_state(self) -> None:
        """Writes transformers' files of a checkpoint; removes no older one, because this one is not complete yet."""
        with for_this_call(self.args, save_total_limit=None):
            super()._save_checkpoint(self.model_wrapped, None)

    def sync_gradients_after(self, last: bool) -> None:
        """
        Tells accelerate whether the micro-batch is the last of its step; its public API is only for its own loop.
        """
        self.accelerator.gradient_state._set_sync_gradients(last)

    def current_learning_rate(self) -> float:
        """Returns the learning rate of the current step; DeepSpeed and metric-based schedules store it elsewhere."""
        return self._get_learning_rate()

    def loss_state(self) -> dict[str, Any]:
        """Returns the loop's loss state between two logs, as named in `run_progress.json`; `TrainerState` lacks it."""
        return {
            "loss": self._tr_loss.item(),
            "last_logged": self._globalstep_last_logged,
            "total_loss": self._total_loss_scalar,
            "first_step": self._initial_global_step,
        }

    def restore_loss_state(self, loss: float, last_logged: int, total_loss: float, first_step: int) -> None:
        """Restores the result of [`loss_state`]; called after the loop has set it up (`on_train_begin`)."""
        self._tr_loss.fill_(loss)
        self._globalstep_last_logged = last_logged
        self._total_loss_scalar, self._initial_global_step = total_loss, first_step

    def make_up_step(self, grad_norm: float | None, learning_rate: float | None) -> None:
        """Logs and evaluates as `control` says, as the loop does at the end of a step."""
        arguments = (self._tr_loss, grad_norm, self.model_wrapped, None, self.state.epoch, None, None)
        self._maybe_log_save_evaluate(*arguments, learning_rate=learning_rate)

    def end_training(self, begin: float) -> TrainOutput:
        """Does the work after the last step, if no step is left; `begin` is the start time of the run."""
        return self._finalize_training(None, 0, begin)


class BaseLmHooks(SFTTrainer):
    """The same for [`~rm_toolkit.training.sft.BaseLmTrainer`]."""

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # `on_save` comes after the files are written, and every process writes some.
        self.begin_checkpoint()
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        self.save_weights(output_dir or self.args.output_dir, state_dict)

    def write_weights(self, folder: str, state_dict: dict[str, torch.Tensor] | None) -> None:
        """Writes what transformers saves for a model."""
        super()._save(folder, state_dict)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: TRL would write a generic card at every checkpoint."""
