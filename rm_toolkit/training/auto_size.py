"""The size of a run's micro-batches: from its settings, from its checkpoint, or found by a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object

from ..errors import InputError
from ..models.settings import RewardModelSettings
from ..output.console import console
from .config import RewardModelConfig
from .micro_batch_size import AUTO, MicroBatchSize
from .retry import shards
from .run_identity import RunIdentity
from .token_search import DeviceMemory, Found, memory_of


def choose_size(
    args: RewardModelConfig,
    accelerator: Accelerator,
    size: MicroBatchSize,
    folder: str | None,
    search: Callable[[DeviceMemory], Found],
) -> MicroBatchSize:
    """
    Returns the size that a run begins with. Called by all processes together; all get the same size.

    A resumed run uses the size that its checkpoint records and does not search: with another size, training would be
    the same, but not bit for bit.

    Args:
        args (`RewardModelConfig`): Of the run.
        accelerator (`Accelerator`): Of the run.
        size (`MicroBatchSize`): What the settings say, pairs for `auto`.
        folder (`str`, *optional*): The checkpoint that it resumes from.
        search (`Callable`): Finds the number of tokens on this process.
    """
    if not args.computes_again:
        return size
    auto, recorded = args.max_tokens_per_batch == AUTO, _recorded(folder)
    if recorded is not None and auto and recorded.tokens is not None:
        return _say(accelerator, recorded, f"as {folder} records")
    memory, why_not = memory_of(accelerator.device), None
    if memory is None:
        why_not = "the memory of a CPU is not measured"
    elif shards(accelerator):
        why_not = "under DeepSpeed and FSDP a process cannot try a step on its own"
    elif args.n_gpu > 1:
        why_not = "one process feeds several GPUs"
    if auto and why_not is None:
        return _searched(accelerator, memory, size, search)
    if (
        recorded is not None
        and (recorded.tokens is None) == (size.tokens is None)
        and _number(recorded) < _number(size)
    ):
        return _say(accelerator, recorded, f"as {folder} records")
    return _say(accelerator, size, f"`max_tokens_per_batch` is '{AUTO}', but {why_not}") if auto else size


def recorded_in_lineage(settings: RewardModelSettings, size: MicroBatchSize) -> RewardModelSettings:
    """Returns settings whose last lineage entry records the size of the micro-batches."""
    entry = {**settings.lineage[-1], "micro_batch": str(size)}
    return dataclasses.replace(settings, lineage=[*settings.lineage[:-1], entry])


def _searched(
    accelerator: Accelerator, memory: DeviceMemory, size: MicroBatchSize, search: Callable[[DeviceMemory], Found]
) -> MicroBatchSize:
    found = search(memory)
    everyone = gather_object([found]) if accelerator.num_processes > 1 else [found]
    least = min(everyone, key=lambda one: (one.peak is not None, one.tokens))
    if least.peak is None:
        how = f"not even one pair of the longest texts fits into {_gib(least.budget)}"
    else:
        how = (
            f"a trial took {_gib(least.peak)} of the {_gib(least.budget)} available when a tenth of the GPU stays free; "
            f"{least.trials} trial(s)"
        )
    if len(everyone) > 1:
        how += f"; the smallest of {len(everyone)} processes"
    return _say(accelerator, MicroBatchSize(size.pairs, least.tokens), how)


def _say(accelerator: Accelerator, size: MicroBatchSize, why: str) -> MicroBatchSize:
    if accelerator.is_main_process:
        console.print(f"micro-batches of up to {size}: {why}")
    return size


def _recorded(folder: str | None) -> MicroBatchSize | None:
    if folder is None:
        return None
    answer: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            identity = RunIdentity.load(folder)
            answer[0] = identity.settings.get("micro_batch") if identity else None
        except InputError:
            pass  # reported where the whole record is compared
    broadcast_object_list(answer)
    return MicroBatchSize.parse(answer[0])


def _number(size: MicroBatchSize) -> int:
    return size.pairs if size.tokens is None else size.tokens


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
