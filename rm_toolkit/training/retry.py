"""Computes a step that ran out of memory again, in micro-batches of half the size, on all processes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object

from ..batches.micro_batch import MicroBatch
from ..errors import InputError
from ..models.out_of_memory import free_memory, is_out_of_memory
from ..output.console import console
from .steps import Steps
from .stopping import agree


WHAT_ELSE = (
    "Set `gradient_checkpointing: true`, lower `max_length`, or use a launch config that shards the model; "
    "`rm-toolkit plan` shows what takes the memory."
)


class RandomState:
    """State of the random generators of a forward pass (dropout), to repeat a step with the same draws."""

    def __init__(self, device: torch.device):
        self.device = device
        self.on_host = torch.get_rng_state()
        self.on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Restores it."""
        torch.set_rng_state(self.on_host)
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, self.device)


class StepRetry:
    """
    Computes steps, and repeats one that does not fit: with the same pairs, the same weights and the same draws, in
    micro-batches of half the size, which all later steps use too.

    Gradients are averaged over processes after all of them have computed their share: a process that runs out of
    memory within the average would leave the others waiting.

    Args:
        accelerator (`Accelerator`): Of the run.
        steps (`Steps`): Plans a step again.
        wanted (`bool`): Whether the settings ask for it.
    """

    def __init__(self, accelerator: Accelerator, steps: Steps, wanted: bool):
        self.accelerator, self.steps = accelerator, steps
        self.wanted, self.active = wanted, wanted and not shards(accelerator)

    @property
    def averages_gradients(self) -> bool:
        """
        Whether gradients are averaged by [`average_gradients`], so that no forward pass may start the engine's
        average.
        """
        return self.active and self.accelerator.num_processes > 1

    @property
    def said_of_scoring(self) -> Callable[[int], None] | None:
        """Called by an evaluation if a batch does not fit and is computed in halves; `None` passes the error on."""
        return self._say_of_scoring if self.active else None

    def _say_of_scoring(self, num_sequences: int) -> None:
        console.print(
            f"evaluation ran out of memory on process {self.accelerator.process_index}: its batches of {num_sequences} texts "
            "are computed in halves; a smaller `per_device_eval_batch_size` avoids the failed attempt"
        )

    def step(
        self,
        inputs: list[MicroBatch],
        number: int,
        compute: Callable[[list[MicroBatch]], torch.Tensor],
        forget: Callable[[], None],
    ) -> torch.Tensor:
        """
        Computes one step.

        Args:
            inputs (`list[MicroBatch]`): This process's micro-batches.
            number (`int`): Number of the step, from 0, over the whole run.
            compute (`Callable`): Forward and backward pass of all of them; returns the step's loss.
            forget (`Callable`): Undoes the side effects of `compute`: gradients and counts.

        Raises:
            `InputError`: if micro-batches of one pair do not fit, or the step may not be computed again.
        """
        if not self.active:
            return self._without_retry(inputs, number, compute)
        inputs = self.steps.in_present_size(inputs, number)
        random_state = RandomState(self.accelerator.device)
        while True:
            loss = _attempt(compute, inputs)
            if not agree([float(loss is None)], self.accelerator)[0]:
                return loss
            failed = loss is None
            loss = None
            forget()
            free_memory()
            random_state.restore()
            inputs = self._smaller(inputs, number, failed)

    def average_gradients(self, model: torch.nn.Module) -> None:
        """Replaces the gradients of all processes by their means, as DDP does: first divided, then summed."""
        waiting = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.div_(self.accelerator.num_processes)
                waiting.append(torch.distributed.all_reduce(parameter.grad, async_op=True))
        for work in waiting:
            work.wait()

    def _without_retry(
        self, inputs: list[MicroBatch], number: int, compute: Callable[[list[MicroBatch]], torch.Tensor]
    ) -> torch.Tensor:
        try:
            return compute(inputs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            what = "Set `auto_find_batch_size: true`, or a smaller"
            if self.wanted:
                what = "DeepSpeed and FSDP cannot compute a step again. Set a smaller"
            raise InputError(
                f"step {number + 1} does not fit into memory ({_first_line(error)}), with micro-batches of up to "
                f"{self.steps.size}. {what} `per_device_train_batch_size` or `max_tokens_per_batch`. {WHAT_ELSE}"
            ) from error

    def _smaller(self, inputs: list[MicroBatch], number: int, failed: bool) -> list[MicroBatch]:
        size = self.steps.size
        mine = (failed, size.filled(inputs), max((batch.num_places for batch in inputs), default=0))
        everyone = gather_object([mine]) if self.accelerator.num_processes > 1 else [mine]
        if max(pairs for _, _, pairs in everyone) <= 1:
            raise InputError(
                f"step {number + 1} does not fit into memory, even with a single pair in each micro-batch. {WHAT_ELSE}"
            )
        # The fullest of those that failed: a limit that none of them reached tells nothing.
        smaller = size.halved(max(filled for did_fail, filled, _ in everyone if did_fail))
        self.steps.resize(smaller)
        if self.accelerator.is_main_process:
            where = [str(rank) for rank, (did_fail, _, _) in enumerate(everyone) if did_fail]
            on = f" on process {', '.join(where)}" if len(everyone) > 1 else ""
            console.print(
                f"step {number + 1} ran out of memory{on}: computed again, from now on in micro-batches of up to {smaller} "
                f"(so far {size})"
            )
        return self.steps.planned_again(inputs, number)


def shards(accelerator: Accelerator) -> bool:
    """
    Whether an engine exchanges weights or gradients within the forward and backward pass. A process that fails there
    leaves the others waiting, and the sums so far are inside the engine, so the step cannot be repeated.
    """
    return accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)


def _attempt(compute: Callable[[list[MicroBatch]], torch.Tensor], inputs: list[MicroBatch]) -> torch.Tensor | None:
    """
    The loss, or `None` if memory ran out. The error is dropped here, because it keeps the computed tensors alive.
    """
    try:
        return compute(inputs)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return None


def _first_line(error: Any) -> str:
    return str(error).partition("\n")[0][:200]
