"""Prompts whose responses fill several micro-batches: first all rewards, then each response again with its gradient."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from ..batches.micro_batch import MicroBatch
from .retry import RandomState, shards


class TwoPasses:
    """
    Runs the first passes of a step (GradCache, arXiv 2101.06983): computes the rewards of such a prompt without a
    graph, and the gradient of the prompt's loss with respect to each reward, which its micro-batches then use in their
    own backward passes.

    Args:
        inputs (`list[MicroBatch]`): This process's micro-batches of the step.
        model (`torch.nn.Module`): Computes the rewards of a micro-batch.
        accelerator (`Accelerator`): Of the run.
        context (`Callable`): The context of a forward pass.
        loss_of (`Callable`): Loss of a prompt's pairs, from the micro-batch that has them and the rewards of all its
            responses, without LM losses.
    """

    def __init__(
        self,
        inputs: list[MicroBatch],
        model: torch.nn.Module,
        accelerator: Accelerator,
        context: Callable[[], contextlib.AbstractContextManager],
        loss_of: Callable[[MicroBatch, Tensor, Tensor], Tensor],
    ):
        # DDP exchanges nothing in a pass without gradients.
        self.model = model if shards(accelerator) else accelerator.unwrap_model(model)
        self.device, self.context = accelerator.device, context
        self.batches = list(inputs)
        self._states: dict[int, RandomState] = {}
        rewards: list[Tensor] = []
        for number, batch in enumerate(inputs):
            if batch.num_parts == 1:
                continue
            self._states[number] = RandomState(self.device)
            rewards.append(self._rewards(batch))
            if batch.part == batch.num_parts - 1:
                self._give(number, rewards, loss_of)
                rewards = []
        # Engines exchange weights in every pass, so every process needs the same number of passes.
        smallest = min(inputs, key=lambda batch: batch.input_ids.numel()) if inputs else None
        for _ in range(inputs[0].first_passes - len(self._states) if inputs else 0):
            with self._kept():
                self._rewards(smallest)

    @contextlib.contextmanager
    def draws_again(self, number: int) -> Iterator[None]:
        """
        A context in which a micro-batch's forward pass has the same random draws (dropout) as its first pass.

        Args:
            number (`int`): Index of the micro-batch in the step.
        """
        if number not in self._states:
            yield
            return
        with self._kept():
            self._states[number].restore()
            yield

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        before = RandomState(self.device)
        try:
            yield
        finally:
            before.restore()

    def _rewards(self, batch: MicroBatch) -> Tensor:
        with torch.no_grad(), self.context():
            return self.model(dataclasses.replace(batch.to(self.device), lm_index=None))[0].detach()

    def _give(self, last: int, rewards: list[Tensor], loss_of: Callable[[MicroBatch, Tensor, Tensor], Tensor]) -> None:
        """
        Stores the gradient of its rewards in every micro-batch of the prompt whose last micro-batch has this index.
        """
        together = torch.cat(rewards).requires_grad_()
        with torch.enable_grad():
            loss = loss_of(self.batches[last].to(self.device), together, together.new_zeros(0))
        (gradient,) = torch.autograd.grad(loss, together)
        nothing = torch.zeros_like(loss)
        for number, piece in enumerate(gradient.split([len(part) for part in rewards]), last + 1 - len(rewards)):
            given = {"reward_grad": piece, "prompt_loss": loss.detach() if number == last else nothing}
            self.batches[number] = dataclasses.replace(self.batches[number], **given).without_pairs()
