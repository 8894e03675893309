"""What a run is made of: the parts that its record describes, and that a later launch may differ in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator

from ..models.reward_model import RewardModel
from .config import RewardModelConfig
from .run_content import Base
from .training_data import TrainingData


@dataclass(frozen=True)
class RunParts:
    """
    The parts of a run, before its first step.

    Args:
        args (`RewardModelConfig`): Settings.
        model (`RewardModel`): What is trained.
        data (`TrainingData`): What it is trained on.
        tests (`dict[str, TokenizedPreferences]`): Test sets.
        base (`Base`): What the model was made from.
        accelerator (`Accelerator`): What the run runs on.
        batch_layout (`str`): How its micro-batches lie in memory.
        given_optimizers (`tuple`): Optimizer and scheduler, where they were made in Python.
        content (`dict`): What a recipe knows of the content of its data.
        micro_batch (`str`): The most that a process computes at once, as it is recorded.
        plan_version (`int`): By which rule its pairs are split over several processes, as it is recorded.
        owns_lineage (`bool`): Whether the last entry of the model's lineage is this run's.
    """

    args: RewardModelConfig
    model: RewardModel
    data: TrainingData
    tests: dict[str, Any]
    base: Base
    accelerator: Accelerator
    batch_layout: str
    given_optimizers: tuple[Any, Any] = (None, None)
    content: dict[str, Any] = field(default_factory=dict)
    micro_batch: str | None = None
    plan_version: int | None = None
    owns_lineage: bool = False
