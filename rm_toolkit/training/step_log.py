"""What a training run logs between two logs: sums over all micro-batches of all processes, divided once."""

from __future__ import annotations

import torch
from transformers import Trainer

from ..batches.collator import MicroBatch
from ..evaluation.metrics import wins_of


class StepLogMixin:
    """Counting and logging for [`~rm_toolkit.training.trainer.RewardModelTrainer`]."""

    _sums: torch.Tensor | None = None
    _steps_counted = 0

    @torch.no_grad()
    def _count(self, batch: MicroBatch, rewards: torch.Tensor, *losses: torch.Tensor) -> None:
        difference = rewards[batch.better] - rewards[batch.worse]
        wins = wins_of(difference).sum()
        read = rewards if len(batch.better) else rewards[:0]
        values = [*losses, wins, difference.sum(), difference.numel(), read.sum(), (read**2).sum(), read.numel()]
        values = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=rewards.device) for v in values])
        self._sums = values if self._sums is None else self._sums + values

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was counted since the last log: losses apart, accuracy and margin over pairs, reward statistics."""
        if "loss" in logs and self._sums is not None:
            sums = self.accelerator.reduce(self._sums, reduction="sum").tolist()
            rank, lm, anchor, wins, margin, pairs, reward_sum, reward_square, rewards = sums
            steps = max(self._steps_counted, 1)
            mean = reward_sum / max(rewards, 1)
            logs["rank_loss"] = rank / steps
            if self.lm_loss_coef > 0:
                logs["lm_loss"] = lm / steps
            if self.args.anchor_coef > 0:
                logs["anchor_loss"] = anchor / steps
            logs["accuracy"] = wins / max(pairs, 1)
            logs["margin"] = margin / max(pairs, 1)
            logs["reward_mean"] = mean
            logs["reward_std"] = max(reward_square / max(rewards, 1) - mean**2, 0.0) ** 0.5
            self._sums, self._steps_counted = None, 0
        Trainer.log(self, logs, start_time)  # TRL's own logs its metrics, which are means of batch means
