"""Attention over a flat row of sequences that share prefixes, on a CPU: blocks of queries and keys, joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...batches.shared_layout import SharedLayout


_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
HAS_FLASH = _FLASH is not None and _FLASH_BACKWARD is not None
# Segments that a window cuts are computed in pieces of at least as many queries, so that small windows make few calls.
_SMALLEST_PIECE = 128


@dataclass
class Block:
    """
    What one call computes.

    Args:
        queries, keys (`slice`): Tokens of the row.
        causal (`bool`): Whether queries and keys are the same tokens, each of which sees those up to itself.
        mask (`torch.Tensor` of shape `(num_queries, num_keys)`, *optional*): What is added to the products, where a
            window cuts.
    """

    queries: slice
    keys: slice
    causal: bool
    mask: Tensor | None = None


@dataclass
class Blocks:
    """
    What all calls for one layer compute.

    Args:
        own (`list[Block]`): Segments on themselves: every token of the row is a query of just one of them.
        prefix (`list[Block]`): Segments on what they continue.
        cut (`bool`): Whether a window cuts a segment: a token may then be a key of several blocks in `own`.
    """

    own: list[Block]
    prefix: list[Block]
    cut: bool


def make_blocks(layout: SharedLayout, window: int | None, dtype: torch.dtype) -> Blocks:
    """
    Divides a layout into blocks, in none of which a query sees no key.

    Args:
        layout (`SharedLayout`): Which tokens see which.
        window (`int`, *optional*): Tokens of its sequence that one sees, itself included.
        dtype (`torch.dtype`): Of the masks.
    """
    if window is None or window >= layout.longest:
        own = [Block(slice(begin, end), slice(begin, end), True) for begin, end in layout.segments[:, :2].tolist()]
        runs = layout.continued().tolist()
        return Blocks(own, [Block(slice(run[0], run[1]), slice(run[2], run[3]), False) for run in runs], False)
    own, prefix = [], []
    for begin, end, prefix_begin, prefix_end in layout.segments.tolist():
        own += _own_blocks(begin, end, window, dtype)
        if prefix_end > prefix_begin and window > 1:
            prefix.append(_prefix_block(slice(begin, end), slice(prefix_begin, prefix_end), window, dtype))
    return Blocks(own, prefix, True)


def _own_blocks(begin: int, end: int, window: int, dtype: torch.dtype) -> list[Block]:
    if end - begin <= window:
        return [Block(slice(begin, end), slice(begin, end), True)]
    blocks = []
    size = max(window, _SMALLEST_PIECE)
    for first in range(begin, end, size):
        last, key = min(first + size, end), max(begin, first - window + 1)
        mask = _band(torch.arange(first, last), torch.arange(key, last), window, dtype)
        blocks.append(Block(slice(first, last), slice(key, last), False, mask))
    return blocks


def _prefix_block(segment: slice, prefix: slice, window: int, dtype: torch.dtype) -> Block:
    own, length = segment.stop - segment.start, prefix.stop - prefix.start
    if own + length <= window:
        return Block(segment, prefix, False)
    queries, keys = min(own, window - 1), min(length, window - 1)  # the last of the one sees the last of the other
    mask = _band(length + torch.arange(queries), torch.arange(length - keys, length), window, dtype)
    queries, keys = slice(segment.start, segment.start + queries), slice(prefix.stop - keys, prefix.stop)
    return Block(queries, keys, False, mask)


def _band(queries: Tensor, keys: Tensor, window: int, dtype: torch.dtype) -> Tensor:
    """Zeros where a query sees a key, else minus infinity, for positions within one sequence."""
    distance = queries[:, None] - keys
    return torch.zeros(distance.shape, dtype=dtype).masked_fill_((distance < 0) | (distance >= window), -torch.inf)


class SegmentAttention(torch.autograd.Function):
    """
    Blockwise attention on a CPU: every segment on itself, each run of segments on its prefix, joined by their
    log-sum-exp. No key is copied and nothing is computed twice, unlike in padded calls and in
    [`~rm_toolkit.models.shared_prompts.attention.sdpa_shared_attention`]. As in ring attention, each block's gradient
    needs only the joint output and log-sum-exp.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: SharedLayout,
        scaling: float | None,
        window: int | None,
    ) -> Tensor:
        blocks = layout.kept(("blocks", window, query.dtype), lambda: make_blocks(layout, window, query.dtype))
        output = torch.empty_like(query)
        log_sum = torch.empty(query.shape[:3], dtype=torch.float32)

        def compute(block: Block) -> tuple[Tensor, Tensor]:
            queries, keys = block.queries, block.keys
            tensors = query[:, :, queries], key[:, :, keys], value[:, :, keys]
            return _FLASH(*tensors, 0.0, block.causal, attn_mask=block.mask, scale=scaling)

        for block in blocks.own:
            output[:, :, block.queries], log_sum[:, :, block.queries] = compute(block)
        for block in blocks.prefix:
            part, part_sum = compute(block)
            share = torch.sigmoid(part_sum - log_sum[:, :, block.queries]).unsqueeze(-1).to(part.dtype)
            output[:, :, block.queries].lerp_(part, share)
            log_sum[:, :, block.queries] = torch.logaddexp(log_sum[:, :, block.queries], part_sum)
        ctx.save_for_backward(query, key, value, output, log_sum)
        ctx.blocks, ctx.scaling = blocks, scaling
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sum = ctx.saved_tensors
        blocks = ctx.blocks
        make = torch.zeros_like if blocks.cut else torch.empty_like
        grads = [make(tensor) for tensor in (query, key, value)]
        for number, block in enumerate([*blocks.own, *blocks.prefix]):
            queries, keys = block.queries, block.keys
            parts = _FLASH_BACKWARD(
                grad[:, :, queries],
                query[:, :, queries],
                key[:, :, keys],
                value[:, :, keys],
                output[:, :, queries],
                log_sum[:, :, queries],
                0.0,
                block.causal,
                attn_mask=block.mask,
                scale=ctx.scaling,
            )
            fills = number < len(blocks.own) and not blocks.cut
            for total, part, where in zip(grads, parts, (queries, keys, keys)):
                if fills:
                    total[:, :, where] = part
                else:
                    total[:, :, where] += part
        return (*grads, None, None, None)
