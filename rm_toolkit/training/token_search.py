"""`max_tokens_per_batch: auto`: predicts and tries the largest micro-batch that leaves a tenth of the memory free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


LEFT_FREE = 0.1  # fraction of the device, for what a trial does not show: fragmentation, longer queues, other batches
MOST_TRIALS = 6
CLOSE_ENOUGH = 0.03  # of the number found: no further trial for a smaller gain


class DeviceMemory(Protocol):
    """The interface of a device to a search. Tests pass their own."""

    def budget(self) -> int:
        """Bytes that this process may allocate."""

    def begin(self) -> None:
        """Called when a trial begins: earlier peaks no longer count."""

    def peak(self) -> int:
        """Peak bytes that this process has allocated since then."""


class CudaMemory:
    """
    Memory of one GPU as reserved by its allocator, including gaps between blocks in use.

    Args:
        device (`torch.device`): The GPU.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def budget(self) -> int:
        """Nine tenths of the GPU, minus what others use: other processes, the context, libraries."""
        free, total = torch.cuda.mem_get_info(self.device)
        others = total - free - torch.cuda.memory_reserved(self.device)
        return int(total * (1 - LEFT_FREE)) - others

    def begin(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return torch.cuda.max_memory_reserved(self.device)


def memory_of(device: torch.device) -> DeviceMemory | None:
    """Returns the memory of a device; `None` if it cannot be measured, as on a CPU."""
    return CudaMemory(device) if device.type == "cuda" else None


@dataclass(frozen=True)
class Found:
    """
    The result of a search.

    Args:
        tokens (`int`): Tokens of a micro-batch; the smallest number tried, if none fitted.
        peak (`int`, *optional*): Bytes of a step of that size; `None` if none fitted.
        budget (`int`): Bytes that a step may use.
        trials (`int`): Number of steps tried.
    """

    tokens: int
    peak: int | None
    budget: int
    trials: int


def search_tokens(
    *,
    unit: int,
    most: int,
    budget: int,
    try_step: Callable[[int], int | None],
    predict: Callable[[int], float] | None = None,
) -> Found:
    """
    Finds the largest number of tokens whose step stays within the budget. Only sizes that were tried are returned.

    Args:
        unit (`int`): Tokens of the largest pair: the number found is a multiple of it.
        most (`int`): Largest useful number of units: a process's share of a step.
        budget (`int`): Bytes that a step may use, with everything allocated before it.
        try_step (`Callable`): Computes a step of this many tokens; returns its bytes, or `None` if memory ran out.
        predict (`Callable`, *optional*): Predicts the bytes; without it, the first trial is the smallest size.
    """
    most = max(1, most)
    fits, too_many, peak = 0, most + 1, None
    measured: list[tuple[int, int]] = []
    units: int | None = _by_prediction(predict, unit, budget, most) if predict else 1
    trials = 0
    while units is not None and trials < MOST_TRIALS:
        trials += 1
        taken = try_step(units * unit)
        if taken is not None:
            measured.append((units, taken))
        if taken is not None and taken <= budget:
            fits, peak = units, taken
        else:
            too_many = units
        units = _next(measured, fits, too_many, budget, _slope(predict, unit))
    return Found(max(1, fits) * unit, peak, budget, trials)


def _next(measured: list[tuple[int, int]], fits: int, too_many: int, budget: int, slope: float | None) -> int | None:
    """Units to try next, strictly between what fits and what does not; `None` if another trial is not worthwhile."""
    if too_many - fits <= 1:
        return None
    guess = (fits + too_many) // 2
    if measured:
        units, taken = measured[-1]
        others = [point for point in measured[:-1] if point[0] != units]
        if others:  # a straight line through the two nearest: bytes are a constant plus a multiple of the tokens
            other, of_other = min(others, key=lambda point: abs(point[0] - units))
            slope = (taken - of_other) / (units - other)
        if slope and slope > 0:
            guess = units + int((budget - taken) // slope)
        elif fits:
            guess = 4 * fits
    guess = min(max(guess, fits + 1), too_many - 1)
    return None if fits and guess - fits <= CLOSE_ENOUGH * fits else guess


def _slope(predict: Callable[[int], float] | None, unit: int) -> float | None:
    return None if predict is None else predict(2 * unit) - predict(unit)


def _by_prediction(predict: Callable[[int], float], unit: int, budget: int, most: int) -> int:
    slope = _slope(predict, unit)
    if not slope or slope <= 0:
        return 1
    return min(max(1, 1 + int((budget - predict(unit)) // slope)), most)
