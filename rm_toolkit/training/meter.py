"""Metrics of a run between two logs: sums over all micro-batches of all processes, divided once."""

from __future__ import annotations

from signal import SIGINT, SIGTERM
from typing import Any

import torch
from accelerate import Accelerator

from ..batches.micro_batch import MicroBatch
from ..evaluation.metrics import wins_of
from .stopping import agree


class Meter:
    """
    Counts what the steps compute, and keeps the micro-batches of the current step until it is known to be finite.
    Nothing is read from the device before [`check`], at the end of every step, or a log.

    Args:
        accelerator (`Accelerator`): The run's accelerator; sums are taken over its processes.
        lm_loss, anchor_loss (`bool`): Whether these losses are part of the run, and so of its logs.
    """

    def __init__(self, accelerator: Accelerator, *, lm_loss: bool = False, anchor_loss: bool = False):
        self.accelerator = accelerator
        self.named = ("rank_loss", "lm_loss" if lm_loss else None, "anchor_loss" if anchor_loss else None)
        self.parts: list[tuple[MicroBatch, torch.Tensor, tuple[torch.Tensor, ...]]] = []
        self.sums: torch.Tensor | None = None
        self._sums_before: torch.Tensor | None = None
        self.steps = 0

    def begin(self) -> None:
        """Called when a step begins: forgets the previous one."""
        self.parts.clear()
        self._sums_before = self.sums

    def begin_again(self) -> None:
        """Called when the current step is computed again: forgets its counts."""
        self.parts.clear()
        self.sums = self._sums_before

    @torch.no_grad()
    def add(self, batch: MicroBatch, rewards: torch.Tensor, *losses: torch.Tensor) -> None:
        """
        Counts one micro-batch.

        Args:
            batch (`MicroBatch`): Its pairs and their weights.
            rewards (`torch.Tensor` of shape `(num_sequences,)`): In logits.
            *losses (`torch.Tensor` of shape `()`): Its shares of the step's ranking, LM and anchor loss.
        """
        self.parts.append((batch, rewards, losses))
        difference = rewards[batch.better] - rewards[batch.worse]
        wins = wins_of(difference).sum()
        read = rewards[: len(rewards) - batch.num_alone] if len(batch.better) else rewards[:0]
        values = [*losses, wins, difference.sum(), difference.numel(), read.sum(), (read**2).sum(), read.numel()]
        values = torch.stack([_as_double(value, rewards.device) for value in values])
        self.sums = values if self.sums is None else self.sums + values

    def end_step(self) -> None:
        """Called when all micro-batches of a step have been added."""
        self.steps += 1

    def check(
        self, loss: torch.Tensor, grad_norm: torch.Tensor | float | None = None, received: int = 0
    ) -> tuple[str | None, int]:
        """
        Checks, on all processes together, whether a step is finite and whether the run is told to stop. One sync.

        Args:
            loss (`torch.Tensor` of shape `()`): This process's share of the step's loss.
            grad_norm (`torch.Tensor` or `float`, *optional*): Norm of the step's gradient, if already known.
            received (`int`): Signal that this process has received, or 0.

        Returns:
            `tuple[str | None, int]`: `"loss"` or `"gradient norm"` if that is not finite on some process; and the
                signal to stop at.
        """
        bad_norm: torch.Tensor | float = 0.0
        if grad_norm is not None and self.accelerator.scaler is None:  # fp16: the scaler skips such a step by itself
            norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm  # FSDP2 shards it
            bad_norm = ~torch.isfinite(torch.as_tensor(norm))
        flags = [~torch.isfinite(loss), bad_norm, float(received == SIGTERM), float(received == SIGINT)]
        bad_loss, bad_norm, terminated, interrupted = agree(flags, self.accelerator)
        what = "loss" if bad_loss else "gradient norm" if bad_norm else None
        return what, SIGTERM if terminated else SIGINT if interrupted else 0

    def take(self) -> dict[str, float]:
        """
        Returns what was counted since the last call, over all processes, and resets: each loss, accuracy and margin
        over pairs, reward statistics. Empty if nothing was counted.
        """
        if self.sums is None:
            return {}
        sums = self.accelerator.reduce(self.sums, reduction="sum").tolist()
        *losses, wins, margin, pairs, reward_sum, reward_square, rewards = sums
        mean = reward_sum / max(rewards, 1)
        found = {name: loss / max(self.steps, 1) for name, loss in zip(self.named, losses) if name}
        found["accuracy"] = wins / max(pairs, 1)
        found["margin"] = margin / max(pairs, 1)
        found["reward_mean"] = mean
        found["reward_std"] = max(reward_square / max(rewards, 1) - mean**2, 0.0) ** 0.5
        self.sums, self.steps = None, 0
        return found

    def state(self) -> list[float] | None:
        """Returns the sums of this process since the last log."""
        return None if self.sums is None else self.sums.tolist()

    def restore(self, sums: list[float] | None, steps: int, device: Any) -> None:
        """
        Continues from sums that [`state`] returned.

        Args:
            sums (`list[float]`, *optional*): Of this process.
            steps (`int`): Steps that they were counted over.
            device (`torch.device`): Device to continue counting on.
        """
        self.sums = None if sums is None else torch.tensor(sums, dtype=torch.float64, device=device)
        self.steps = steps


def _as_double(value: torch.Tensor | int, device: torch.device) -> torch.Tensor:
    """A scalar on the device. A number is filled in there: to copy one from the host would wait for the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, torch.float64)
    return torch.full((), value, dtype=torch.float64, device=device)
