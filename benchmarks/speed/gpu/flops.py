"""Floating-point operations that a batch needs, and the share of a GPU's peak that a run reaches (MFU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rm_toolkit.batches.prefixes import flat_row


@dataclass(frozen=True)
class Work:
    """
    The work in a forward pass.

    Args:
        tokens (`int`): Tokens that go through the layers, including padding if it is computed.
        attention_pairs (`int`): Pairs of a query and a key in causal attention, about half the square of the length.
        untouched (`int`): Tokens that the last layer's MLP skips, because nothing is read from them.
    """

    tokens: int = 0
    attention_pairs: int = 0
    untouched: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.attention_pairs + other.attention_pairs,
            self.untouched + other.untouched,
        )


def model_flops(config: Any, work: Work, *, backward: bool = True) -> float:
    """
    Operations of the layers: 2 per parameter and token forward, and twice as many backward. The embedding is a look-up
    and does not count.

    Args:
        config (`LlamaConfig`): Sizes of the model.
        work (`Work`): Work in the forward pass.
        backward (`bool`): Whether gradients are computed, too.

    Returns:
        `float`: 6 (2 without gradients) x the parameters applied to each token, summed over tokens, plus attention.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    mlp = 3 * hidden * config.intermediate_size
    layer = 2 * hidden * queries + 2 * hidden * keys + mlp
    applied = layers * layer * work.tokens - mlp * work.untouched
    # Scores and weighted values: `head_dim` multiply-adds each, 2 operations per multiply-add, in every head.
    attention = layers * 2 * 2 * queries * work.attention_pairs
    return (3 if backward else 1) * (2.0 * applied + attention)


def mfu(flops: float, seconds: float, peak_tflops: float) -> float:
    """Model FLOP/s as a share of the card's peak, 0 to 1."""
    return flops / seconds / (peak_tflops * 1e12)


def padded_work(rows: int, width: int) -> Work:
    """The work of a padded batch, which computes every row over the whole width."""
    return Work(rows * width, rows * width * (width + 1) // 2)


def distinct_work(texts_of_prompts: list[list[list[int]]], *, trimmed: bool) -> Work:
    """
    The work of computing each distinct token once: each prompt once, each response once, no padding.

    Args:
        texts_of_prompts (`list[list[list[int]]]`): Token ids of the texts of each prompt.
        trimmed (`bool`): Whether the last MLP is computed only where a reward is read.
    """
    total = Work()
    for texts in texts_of_prompts:
        row = flat_row([np.array(ids) for ids in texts])
        tokens = len(row.input_ids)
        total += Work(tokens, row.layout.attention_pairs(), tokens - len(texts) if trimmed else 0)
    return total
