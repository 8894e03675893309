"""Bytes that an engine holds for a weight: the only place that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..models.precision import WEIGHT_DTYPE


if TYPE_CHECKING:
    from .engines import Engine

# Values that an optimizer keeps for a trained weight; AdamW's two moments unless it is one of these.
OPTIMIZER_VALUES = {"sgd": 0, "adafactor": 0, "rmsprop": 1, "adagrad": 1, "lomo": 0, "adalomo": 0}


@dataclass(frozen=True)
class WeightBytes:
    """
    Bytes for each weight, before a sharding engine divides them by the number of processes.

    Args:
        weights (`int`): Of every weight, trained or not.
        master (`int`): Of a trained weight: the copy of it that the optimizer steps on.
        gradients (`int`): Of a trained weight, between two micro-batches.
        moved (`int`): Of a trained weight: copies that wait on the host for the optimizer or for the GPU.
        element (`int`): Of a weight or gradient that is gathered or reduced.
        casts_kept (`bool`): Whether autocast's 16-bit copies of all layers are there at the end of the forward pass,
            as PyTorch caches them; otherwise only those of one layer.
        cast_once (`bool`): Whether these copies are made once an optimizer step and held until its end, see
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
    What an engine holds of each weight. The recipe's precision does not matter: every engine computes by autocast.

    Args:
        engine (`Engine`): From [`~rm_toolkit.training.engines.read_engine`] in a run, or of a plan.
    """
    element = WEIGHT_DTYPE.itemsize
    offloaded = "optimizer" in engine.offload
    master = moved = 0
    if engine.zero_stage == 2:
        master = element  # a clone of its part, also where the weights are fp32 already
        moved = element if offloaded else 0  # the stepped weights on their way back
    elif engine.zero_stage == 3 and offloaded:
        master = element  # without offload, it steps on the weights themselves
        moved = element  # gradients that are summed up, beside those that the optimizer reads
    # ZeRO-3 replaces `torch.nn.functional.linear` by one that casts anew in the backward pass.
    kept = engine.zero_stage != 3
    once = kept and engine.fsdp_version is None
    return WeightBytes(element, master, element, moved, element, casts_kept=kept, cast_once=once)


def optimizer_bytes(optimizer: str) -> int:
    """
    Bytes of the optimizer's states for a trained weight.

    Args:
        optimizer (`str`): Name of `optim`.
    """
    name = optimizer.lower()
    if "8bit" in name:
        return 2
    values = next((number for known, number in OPTIMIZER_VALUES.items() if name.startswith(known)), 2)
    return values * WEIGHT_DTYPE.itemsize
