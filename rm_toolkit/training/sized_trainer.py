"""The size of a run's micro-batches: chosen before it begins, and recorded whenever it changes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..batches.micro_batch import MicroBatch
from .auto_size import choose_size, recorded_in_lineage
from .resume_checks import recorded_plan_version
from .step_trainer import StepTrainer
from .trial import find_tokens, longest_text


class SizedTrainer(StepTrainer):
    """Computes steps in micro-batches of a chosen size, as [`~rm_toolkit.training.step_trainer.StepTrainer`]."""

    owns_lineage = False  # whether the last entry of the model's lineage is from this run

    def choose_micro_batches(self, folder: str | None) -> None:
        """
        Chooses the initial size of micro-batches, see [`choose_size`], and the rule for splitting pairs over
        processes. Called before an engine wraps the model.

        Args:
            folder (`str`, *optional*): The checkpoint that the run resumes from.
        """
        self.steps.plan_version = recorded_plan_version(folder)
        longest = longest_text(self.data.joined, self.model.settings.max_length)
        run = (self.model, self.args, self.accelerator, self.batch_layout, longest)
        search = partial(find_tokens, *run, self._try_batch)
        self.steps.size = choose_size(self.args, self.accelerator, self.steps.size, folder, search)
        self._record_size()

    def training_step(
        self, model: torch.nn.Module, inputs: list[MicroBatch], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """As [`StepTrainer.training_step`]."""
        before = self.steps.size
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.steps.size != before:
            self._record_size()
        return loss

    def _record_size(self) -> None:
        if self.args.computes_again and self.owns_lineage:
            self.model.settings = recorded_in_lineage(self.model.settings, self.steps.size)

    def _try_batch(self, batch: MicroBatch) -> None:
        """Computes one micro-batch as in a step; its counts are discarded."""
        self.meter.begin()
        with self.accelerator.autocast():  # applied by the engine otherwise
            self._compute_step(self.model, [batch])
        self.meter.begin_again()
