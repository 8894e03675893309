"""Bytes per weight under each engine: the only place that defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..models.precision import WEIGHT_DTYPE


if TYPE_CHECKING:
    from .engines import Engine

# Values that an optimizer keeps per trained weight; AdamW's two moments unless listed here.
OPTIMIZER_VALUES = {"sgd": 0, "adafactor": 0, "rmsprop": 1, "adagrad": 1, "lomo": 0, "adalomo": 0}


@dataclass(frozen=True)
class WeightBytes:
    """
    Bytes per weight, before a sharding engine divides them by the number of processes.

    Args:
        weights (`int`): For every weight, trained or not.
        master (`int`): For a trained weight: the copy that the optimizer updates.
        gradients (`int`): For a trained weight, between two micro-batches.
        moved (`int`): For a trained weight: copies on the host in transit to the optimizer or to the GPU.
        element (`int`): For a weight or gradient that is gathered or reduced.
        casts_kept (`bool`): Whether autocast's 16-bit copies of all layers are in memory at the end of the forward
            pass, as PyTorch caches them; otherwise only those of one layer.
        cast_once (`bool`): Whether these copies are made once per optimizer step and kept until its end, see
            [`~rm_toolkit.models.compute_copies.ComputeCopies`]; not where each process holds its part of the weights.
    """

    weights: int
    master: int
    gradients: int
    moved: int
    element: int
    casts_kept: bool
    cast_once: bool


def weight_bytes(engine: Engine) -> WeightBytes:
    """
    Bytes that an engine holds per weight. The recipe's precision does not matter: every engine computes with autocast.

    Args:
        engine (`Engine`): From [`~rm_toolkit.training.engines.read_engine`] in a run, or of a plan.
    """
    element = WEIGHT_DTYPE.itemsize
    offloaded = "optimizer" in engine.offload
    master = moved = 0
    if engine.zero_stage == 2:
        master = element  # a clone of its part, even if the weights are fp32 already
        moved = element if offloaded else 0  # the updated weights in transit back
    elif engine.zero_stage == 3 and offloaded:
        master = element  # without offload, it updates the weights themselves
        moved = element  # accumulated gradients, besides those that the optimizer reads
    # ZeRO-3 replaces `torch.nn.functional.linear` by one that casts again in the backward pass.
    kept = engine.zero_stage != 3
    once = kept and engine.fsdp_version is None
    return WeightBytes(element, master, element, moved, element, casts_kept=kept, cast_once=once)


def optimizer_bytes(optimizer: str) -> int:
    """
    Bytes of the optimizer's states per trained weight.

    Args:
        optimizer (`str`): Name of `optim`.
    """
    name = optimizer.lower()
    if "8bit" in name:
        return 2
    values = next((number for known, number in OPTIMIZER_VALUES.items() if name.startswith(known)), 2)
    return values * WEIGHT_DTYPE.itemsize
