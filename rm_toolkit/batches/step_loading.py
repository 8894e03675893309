"""The parts of a step loader: a sampler of step indices, and a dataset that plans and builds the step of an index."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from .collator import PreferenceCollator
from .epoch_plan import EpochPlan, StepDataset
from .step_batches import StepBatches


class StepNumber(NamedTuple):
    """
    The index of a step: a few numbers from which a loader process plans it.

    Args:
        epoch (`int`): Epoch, from 0.
        number (`int`): Step within the epoch, from 0.
        pairs (`int`), tokens (`int`, *optional*): Size of its micro-batches, as in
            [`~rm_toolkit.batches.epoch_plan.EpochPlan.resize`].
    """

    epoch: int
    number: int
    pairs: int
    tokens: int | None


class StepNumbers(Sampler):
    """
    The batch sampler of a run: the indices of the steps of an epoch, `None` for skipped ones.

    Args:
        plan (`EpochPlan`): Has the epoch and the size of the micro-batches.
    """

    def __init__(self, plan: EpochPlan):
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[StepNumber | None]]:
        plan = self.plan
        epoch, skipped = plan.epoch, plan.skipped
        for number in range(len(plan)):
            size = plan.filler.pairs, plan.filler.tokens
            yield [None if number < skipped else StepNumber(epoch, number, *size)]


class PlannedSteps(TorchDataset):
    """
    Plans a step and builds its micro-batches. `len()` counts pairs, like every batch size of the toolkit.

    Args:
        plan (`EpochPlan`): Plans the steps.
        collator (`PreferenceCollator`): Builds the tensors.
        ahead (`bool`): Whether a thread builds the next step during the computation of one; for runs without loader
            processes, which do the same.
        pin (`bool`): Whether that thread puts it into pinned memory.
    """

    def __init__(self, plan: EpochPlan, collator: PreferenceCollator, *, ahead: bool = False, pin: bool = False):
        # A separate plan: the size of the run's plan may change while a step is planned here.
        self._plan = copy.copy(plan)
        self._plan.filler = dataclasses.replace(plan.filler)
        self._steps = StepDataset(plan.data, collator)
        self._pin = pin
        self._thread = ThreadPoolExecutor(1, "next step") if ahead else None
        self._next: tuple[StepNumber, Future[StepBatches]] | None = None

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: StepNumber | None) -> StepBatches | None:
        if step is None:
            return None
        if self._thread is None:
            return self._make(step)
        wanted, made = self._next or (None, None)
        if wanted != step:
            made = self._thread.submit(self._make, step)
        batches, self._next = made.result(), None
        if step.number + 1 < len(self._plan):
            following = step._replace(number=step.number + 1)
            self._next = following, self._thread.submit(self._make, following)
        return batches

    def _make(self, step: StepNumber) -> StepBatches:
        self._plan.resize(step.pairs, step.tokens)
        batches = StepBatches(self._steps[self._plan.plan_step(self._plan.pairs_of_step(step.epoch, step.number))])
        return batches.pin_memory() if self._pin else batches
