"""Attention over a flat row of sequences that share prefixes, on a CPU: blocks of queries and keys, joined."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...batches.shared_layout import SharedLayout


_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
HAS_FLASH = _FLASH is not None and _FLASH_BACKWARD is not None


class SegmentAttention(torch.autograd.Function):
    """
    Blockwise attention on a CPU: every segment on itself, each run of segments on its prefix, joined by their
    log-sum-exp. No key is copied and nothing is computed twice, unlike in padded calls and in
    [`~rm_toolkit.models.shared_prompts.attention.sdpa_shared_attention`]. As in ring attention, each block's gradient needs only the joint output and log-sum-exp.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: SharedLayout, scaling: float | None
    ) -> Tensor:
        output = torch.empty_like(query)
        log_sum = torch.empty(query.shape[:3], dtype=torch.float32)
        for begin, end in layout.segments[:, :2].tolist():
            own = slice(begin, end)
            output[:, :, own], log_sum[:, :, own] = _FLASH(
                query[:, :, own], key[:, :, own], value[:, :, own], 0.0, True, scale=scaling
            )
        for begin, end, prefix_begin, prefix_end in layout.continued().tolist():
            run, prefix = slice(begin, end), slice(prefix_begin, prefix_end)
            part, part_sum = _FLASH(
                query[:, :, run], key[:, :, prefix], value[:, :, prefix], 0.0, False, scale=scaling
            )
            share = torch.sigmoid(part_sum - log_sum[:, :, run]).unsqueeze(-1).to(part.dtype)
            output[:, :, run].lerp_(part, share)
            log_sum[:, :, run] = torch.logaddexp(log_sum[:, :, run], part_sum)
        ctx.save_for_backward(query, key, value, output, log_sum)
        ctx.layout, ctx.scaling = layout, scaling
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sum = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in (query, key, value)]

        def block(queries: slice, keys: slice, causal: bool) -> tuple[Tensor, ...]:
            return _FLASH_BACKWARD(
                grad[:, :, queries],
                query[:, :, queries],
                key[:, :, keys],
                value[:, :, keys],
                output[:, :, queries],
                log_sum[:, :, queries],
                0.0,
                causal,
                scale=ctx.scaling,
            )

        for begin, end in ctx.layout.segments[:, :2].tolist():
            own = slice(begin, end)
            for total, part in zip(grads, block(own, own, True)):
                total[:, :, own] = part
        for begin, end, prefix_begin, prefix_end in ctx.layout.continued().tolist():
            run, prefix = slice(begin, end), slice(prefix_begin, prefix_end)
            for total, part, where in zip(grads, block(run, prefix, False), (run, prefix, prefix)):
                total[:, :, where] += part
        return (*grads, None, None)
