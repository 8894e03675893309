"""From the hidden states of a micro-batch to one vector per text, from which its reward is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor


if TYPE_CHECKING:
    from ..batches.micro_batch import MicroBatch


def pool(hidden: Tensor, batch: MicroBatch, pooling_type: str) -> Tensor:
    """
    Args:
        hidden (`torch.Tensor` of shape `(batch_size, seq_length, hidden_size)`): Last hidden states.
        batch (`MicroBatch`): The micro-batch they are of.
        pooling_type (`str`): `"last"` or `"eos"`: the last token of each text; `"average"` or `"max"`: over its tokens,
            padding apart.

    Returns:
        `torch.Tensor` of shape `(num_sequences, hidden_size)`.

    Raises:
        `ValueError`: if all tokens are to be read from a shared row whose collator did not say where they are.
    """
    if pooling_type in ("last", "eos"):
        return hidden.reshape(-1, hidden.shape[-1])[batch.reward_index]
    if batch.pool_index is not None:
        return _of_pieces(hidden.reshape(-1, hidden.shape[-1])[batch.pool_index], batch.pool_lengths, pooling_type)
    if batch.layout is not None:
        raise ValueError(f"`pooling_type` is '{pooling_type}': build shared micro-batches with `pools_all`.")
    mask = batch.attention_mask.unsqueeze(-1).bool()  # [B, T, 1]
    if pooling_type == "average":
        return hidden.masked_fill(~mask, 0.0).float().sum(1) / mask.sum(1)
    return hidden.masked_fill(~mask, -math.inf).amax(1)


def _of_pieces(tokens: Tensor, lengths: list[int], pooling_type: str) -> Tensor:
    """As [`pool`], of the tokens of all texts, one text after the other; a shared prompt is in several of them."""
    if not lengths:
        return tokens  # no text, but still part of the graph
    pieces = tokens.split(lengths)
    if pooling_type == "average":
        return torch.stack([piece.float().mean(0) for piece in pieces])
    return torch.stack([piece.amax(0) for piece in pieces])
