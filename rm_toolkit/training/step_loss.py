"""The loss of one micro-batch: its share of the loss of the whole step."""

from __future__ import annotations

from typing import Any

import torch

from ..batches.micro_batch import MicroBatch
from ..losses import anchor_loss, centering_loss, ranking_loss
from .config import RewardModelConfig


def micro_batch_loss(
    inputs: MicroBatch,
    rewards: torch.Tensor,
    lm_losses: torch.Tensor,
    *,
    lm_loss_coef: float = 0.0,
    anchor_coef: float = 0.0,
    centering_coef: float | None = None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """
    Sums the losses of a micro-batch, whose weights are already divided by the counts of the whole step.

    Args:
        inputs (`MicroBatch`): Pairs and weights.
        rewards (`torch.Tensor` of shape `(num_sequences,)`): In logits.
        lm_losses (`torch.Tensor`): Losses of the sequences that count for the LM loss, in nats per token.
        lm_loss_coef, anchor_coef, centering_coef (`float`): Weights of these losses.

    Returns:
        `tuple`: The loss, and its parts for the log: ranking, LM, anchor, without their coefficients.
    """
    if inputs.reward_grad is not None:  # the pairs' loss and its gradient are known
        given = (rewards * inputs.reward_grad).sum()
        loss = given + (inputs.prompt_loss - given).detach()
        rank = anchor = torch.zeros((), device=rewards.device)
    else:
        loss, rank, anchor = _loss_of_pairs(inputs, rewards, anchor_coef, centering_coef)
    lm = inputs.lm_weight * lm_losses.sum()
    if lm_loss_coef > 0:
        loss = loss + lm_loss_coef * lm
    return loss, (rank, lm, anchor)


def coefficients(args: RewardModelConfig) -> dict[str, Any]:
    """Returns the weights of the losses for [`micro_batch_loss`]."""
    weights = {"lm_loss_coef": args.lm_loss_coef, "anchor_coef": args.anchor_coef}
    return weights | {"centering_coef": args.center_rewards_coefficient}


def _loss_of_pairs(
    inputs: MicroBatch, rewards: torch.Tensor, anchor_coef: float, centering_coef: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, and the ranking and anchor losses in it."""
    rank = (inputs.pair_weight * ranking_loss(rewards, inputs.better, inputs.worse, inputs.margin)).sum()
    loss = rank + 0.0 * rewards.sum()  # an empty micro-batch still has a gradient: zero for every parameter
    if centering_coef is not None:
        centering = (inputs.pair_weight * centering_loss(rewards, inputs.better, inputs.worse)).sum()
        loss = loss + centering_coef * centering
    anchor = torch.zeros((), device=rewards.device)
    if inputs.anchor_margin is not None:
        anchor = anchor_loss(rewards, inputs.better, inputs.worse, inputs.anchor_margin).sum() * inputs.anchor_weight
        loss = loss + anchor_coef * anchor
    return loss, rank, anchor
