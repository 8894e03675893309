"""`training_log.json` as it goes: readable while a run trains, and after it was killed."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from .results import write_log
from .upstream import TrainerHooks


# A log of many entries takes long to write: it is delayed so that writing takes only a small part of the time.
LEAST_SECONDS, LARGEST_PART = 1.0, 0.02


def log_of(trainer: TrainerHooks) -> dict[str, Any]:
    """
    Returns the content of `training_log.json` for a run.

    Args:
        trainer (`RewardModelTrainer`): Its state is used; for a resumed run, that of the whole run.
    """
    state = trainer.state
    return {
        "pairs_per_step": trainer.pairs_per_step,
        "max_steps": state.max_steps,
        "log_history": state.log_history,
    }


class RunningLog(TrainerCallback):
    """
    Writes the log of a run, atomically, whenever something was logged, on the process that saves.

    Args:
        trainer (`RewardModelTrainer`): The run.
    """

    def __init__(self, trainer: TrainerHooks):
        self.trainer = trainer
        self.training, self.written, self.next = False, 0, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.training, self.written, self.next = True, -1, 0.0

    def on_log(self, args, state, control, **kwargs):
        if time.monotonic() >= self.next:
            self._write(args, state)

    def on_save(self, args, state, control, **kwargs):
        self._write(args, state)

    def on_train_end(self, args, state, control, **kwargs):
        self._write(args, state)
        self.training = False

    def _write(self, args: Any, state: Any) -> None:
        # An evaluation outside of training does not change the run: a log that was written already is kept.
        if not (self.training and args.should_save and state.is_world_process_zero):
            return
        if len(state.log_history) == self.written:
            return
        begin = time.monotonic()
        write_log(args.output_dir, log_of(self.trainer))
        end = time.monotonic()
        self.written, self.next = len(state.log_history), end + max(LEAST_SECONDS, (end - begin) / LARGEST_PART)
