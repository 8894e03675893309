"""A loss that is not finite stops the run in the step where it occurs, and the error names the rows that caused it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from accelerate.utils import gather_object

from ..batches.micro_batch import MicroBatch
from ..errors import InputError
from .manifest import newest_complete


MOST_ROWS = 5

# Of each micro-batch of a step: the batch, its rewards, its losses.
Parts = list[tuple[MicroBatch, torch.Tensor, tuple[torch.Tensor, ...]]]


def not_finite(
    what: str, value: float, parts: Parts, *, step: int, output_dir: str, describe: Callable[[int, int, Any], str]
) -> InputError:
    """
    Builds the error; called by all processes of the run together.

    Args:
        what (`str`): `"loss"` or `"gradient norm"`.
        value (`float`): The value on this process that is not finite.
        parts (`list`): What the step computed on this process.
        step (`int`): Number of the step, from 1.
        output_dir (`str`): Output folder of the run, with its checkpoints.
        describe (`Callable`): Names a row, its pair, and its dataset.
    """
    levels = zip(*gather_object([_suspects(parts, describe)]))
    closest = next((level for level in (list(chain(*level)) for level in levels) if level), [])
    found = [text for _, text in sorted(dict(closest).items())] or ["(not known)"]
    number = len(found)
    shown = "; ".join(found[:MOST_ROWS]) + (f"; and {number - MOST_ROWS} more" if number > MOST_ROWS else "")
    last = newest_complete(output_dir)
    kept = f"The last good checkpoint is {last}" if last else "There is no checkpoint yet"
    shape = "is not finite" if value == value and abs(value) != float("inf") else f"is {value}"
    return InputError(
        f"the {what} of step {step} {shape}; the run ends before it is saved. It comes from "
        f"row(s) {shown}. {kept}. Check these rows, or start again with a lower `learning_rate`, more "
        "`warmup_steps` or a smaller `max_grad_norm`."
    )


def _suspects(parts: Parts, describe: Callable[[int, int, Any], str]) -> list[list[tuple[int, str]]]:
    """
    Rows of this process, with their descriptions: rows whose own rewards are not finite; else rows of micro-batches
    with such a loss; else all rows of the step.
    """
    pairs: list[tuple[int, tuple]] = []
    batches: list[tuple[int, tuple]] = []
    everything: list[tuple[int, tuple]] = []
    for batch, rewards, losses in parts:
        named = [(row, (pair, batch.data)) for row, pair in zip(batch.rows, batch.pairs)]
        everything += named
        if not all(bool(torch.isfinite(loss)) for loss in losses):
            batches += named
        finite = torch.isfinite(rewards[batch.better] - rewards[batch.worse]).tolist()
        pairs += [entry for entry, good in zip(named, finite) if not good]
    return [
        [(row, describe(row, *place)) for row, place in sorted(dict(reversed(level)).items())]
        for level in (pairs, batches, everything)
    ]
