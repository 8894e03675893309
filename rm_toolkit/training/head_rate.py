"""A learning rate of the reward head's own: a fresh head has far to go in a run whose rate spares the pretrained weights."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from ..errors import InputError
from ..models.heads import reward_head
from ..models.reward_model import RewardModel


OWN_RATE = "rm_toolkit_own_rate"  # marks the parameter group; it is stored with the optimizer's state


def check_head_rate(rate: float | None, optimizer: Any, deepspeed_config: Any = None) -> None:
    """
    Refuses a rate for the head where the optimizer is not the trainer's.

    Args:
        rate (`float`, *optional*): `head_learning_rate`.
        optimizer (`Optimizer`, *optional*): One that was passed from Python.
        deepspeed_config (*optional*): accelerate's `HfDeepSpeedConfig`, which may describe an optimizer.

    Raises:
        `InputError`: naming the other optimizer.
    """
    if rate is None:
        return
    other = "`optimizers` has one already" if optimizer is not None else ""
    if deepspeed_config is not None and deepspeed_config.get_value("optimizer") is not None:
        other = "the DeepSpeed config has an `optimizer`"
    if other:
        raise InputError(
            f"`head_learning_rate` is {rate:g}, which needs the optimizer that the trainer makes, but {other}. Leave one "
            "of them out."
        )


def give_head_its_rate(optimizer: Optimizer, model: RewardModel, rate: float) -> None:
    """
    Moves the reward head into a parameter group with its own learning rate; the schedule multiplies both rates.

    Args:
        optimizer (`Optimizer`): Before its first step.
        model (`RewardModel`): As the optimizer has its parameters, with its adapter and wrapped by its engine.
        rate (`float`): Learning rate of the head.

    Raises:
        `InputError`: if the optimizer does not have the head.
    """
    own = {id(parameter) for parameter in reward_head(model.base_classifier).parameters() if parameter.requires_grad}
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in own]
        if not moved:
            continue
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
        options = {name: value for name, value in group.items() if name not in ("params", "lr")}
        # A tensor of a capturable optimizer must not be shared between groups.
        lr = torch.full_like(group["lr"], rate) if isinstance(group["lr"], torch.Tensor) else rate
        optimizer.add_param_group({**options, "params": moved, "lr": lr, OWN_RATE: True})
        return
    raise InputError(
        f"`head_learning_rate` is {rate:g}, but the optimizer {type(optimizer).__name__} does not train the reward head in "
        "a parameter group. Leave it out, or use another `optim`, such as 'adamw_torch'."
    )
