"""Attention over a flat row of sequences that share prefixes, on a GPU: FlexAttention with a block mask."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from ...batches.shared_layout import SharedLayout


# Rows are padded to a multiple of this, so that the compiled kernel meets few lengths.
BLOCK_SIZE = 128
# The compiled kernel takes no smaller heads; zeros at the end of each change nothing.
SMALLEST_HEAD = 16


@lru_cache(maxsize=1)
def _compiled() -> tuple[Any, Any]:
    return torch.compile(flex_attention, dynamic=True), torch.compile(create_block_mask)


def shared_block_mask(layout: SharedLayout, device: torch.device, window: int | None = None) -> BlockMask:
    """
    The block mask of a layout, built once a micro-batch: blocks in which no token sees another are skipped.

    Args:
        layout (`SharedLayout`): Which tokens see which.
        device (`torch.device`): Where attention is computed.
        window (`int`, *optional*): Tokens of its sequence that one sees, itself included.

    Returns:
        `BlockMask`: For a row of the layout's tokens, padded to a multiple of 128; padding sees itself alone.
    """
    padding = -layout.num_tokens % BLOCK_SIZE
    own, begin, end = layout.bounds(device)
    if padding:
        tail = torch.arange(layout.num_tokens, layout.num_tokens + padding, dtype=own.dtype, device=device)
        own = torch.cat([own, tail])
        begin, end = F.pad(begin, (0, padding)), F.pad(end, (0, padding))

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        prefix = (key >= begin[query]) & (key < end[query])
        return (key <= query) & ((key >= own[query]) | prefix)

    def within(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # Between a prefix and its continuation there are other tokens, which do not count.
        distance = query - key - torch.where(key < own[query], own[query] - end[query], 0)
        return visible(batch, head, query, key) & (distance < window)

    create = _compiled()[1] if device.type == "cuda" else create_block_mask
    length = len(own)
    return create(
        visible if window is None else within, None, None, length, length, device=device, BLOCK_SIZE=BLOCK_SIZE
    )


def flex_shared_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SharedLayout,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """
    As [`~rm_toolkit.models.shared_prompts.attention.shared_attention`]; grouped key and value heads are not copied.

    Outside CUDA it runs uncompiled and without a backward pass: for tests of the mask.
    """
    mask = layout.kept(("flex", str(query.device), window), lambda: shared_block_mask(layout, query.device, window))
    padding = mask.shape[-1] - query.shape[2]
    width, scaling = value.shape[-1], query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (
        F.pad(tensor, (0, max(SMALLEST_HEAD - tensor.shape[-1], 0), 0, padding)) for tensor in (query, key, value)
    )
    kernel = _compiled()[0] if query.device.type == "cuda" else flex_attention
    output = kernel(
        query,
        key,
        value,
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[:, :, : layout.num_tokens, :width]
