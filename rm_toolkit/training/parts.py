"""The parts of a run, which its record describes and in which a later launch may differ."""

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
        model (`RewardModel`): The trained model.
        data (`TrainingData`): Training data.
        tests (`dict[str, TokenizedPreferences]`): Test sets.
        base (`Base`): What the model was created from.
        accelerator (`Accelerator`): The run's accelerator.
        batch_layout (`str`): Layout of its micro-batches in memory.
        given_optimizers (`tuple`): Optimizer and scheduler, if they were passed from Python.
        content (`dict`): What a recipe knows about the content of its data.
        micro_batch (`str`): Size of a micro-batch, as recorded.
        plan_version (`int`): Version of the rule that splits its pairs over processes, as recorded.
        owns_lineage (`bool`): Whether the last entry of the model's lineage is from this run.
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
