"""Attention over a flat row of sequences that share prefixes, on a GPU in 16 bits: FlashAttention over packed sequences."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...batches.shared_layout import SharedLayout


@dataclass(frozen=True)
class VarlenKernel:
    """
    A function with the arguments of `torch.nn.attention.varlen.varlen_attn`, and what it takes.

    Args:
        function (`Callable`): Queries of each packed sequence on its keys; causal and windowed masks are aligned to
            the last of both.
        grouped (`bool`): Whether it takes fewer key than query heads (`enable_gqa`).
        dtypes (`tuple[torch.dtype, ...]`): What it computes in.
    """

    function: Callable[..., Tensor]
    grouped: bool
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)


@lru_cache
def installed_kernel(device_type: str) -> VarlenKernel | None:
    """The kernel that the installed torch has for a kind of device: from 2.11 on, for CUDA."""
    if device_type != "cuda":
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= parameters.keys():  # torch 2.10: always scaled by the width of a head
        return None
    return VarlenKernel(varlen_attn, "enable_gqa" in parameters)


def kernel_for(device: str, dtype: torch.dtype, head_dim: int, value_dim: int) -> VarlenKernel | None:
    """
    The kernel that computes such heads, or `None` where there is none.

    Args:
        device (`str`): Where.
        dtype (`torch.dtype`): Of queries, keys and values.
        head_dim, value_dim (`int`): Width of a head of queries and keys, and of values.
    """
    kernel = installed_kernel(torch.device(device).type)
    if kernel is None or dtype not in kernel.dtypes or head_dim != value_dim or head_dim % 8 or head_dim > 256:
        return None
    if 192 < head_dim <= 224:  # FlashAttention has no backward pass for these on smaller GPUs
        return None
    return kernel if _answers(kernel, device, dtype, head_dim) else None


@lru_cache
def _answers(kernel: VarlenKernel, device: str, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernel runs here: older GPUs and other builds of torch refuse it."""
    with torch.no_grad():
        heads = torch.zeros(2, 1, head_dim, dtype=dtype, device=device)
        ends = torch.tensor([0, 2], dtype=torch.int32, device=device)
        try:
            kernel.function(heads, heads, heads, ends, ends, 2, 2, scale=1.0, window_size=(-1, 0))
        except (RuntimeError, ValueError):
            return False
    return True


def varlen_shared_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SharedLayout,
    scaling: float | None,
    window: int | None,
    kernel: VarlenKernel,
) -> Tensor:
    """
    As [`~rm_toolkit.models.shared_prompts.attention.shared_attention`]: each segment is a sequence of queries, whose
    keys and values are those of its prefix and its own. Prefixes are sequences of their own, too.

    Args:
        kernel (`VarlenKernel`): From [`kernel_for`].
    """
    packed = layout.packed(query.device)
    keys, values = _Gather.apply(_by_token(key), _by_token(value), packed.keys)
    options: dict[str, Any] = {}
    if query.shape[1] != key.shape[1]:
        if kernel.grouped:
            options["enable_gqa"] = True
        else:
            repeats = query.shape[1] // key.shape[1]
            keys, values = (tensor.repeat_interleave(repeats, dim=1) for tensor in (keys, values))
    output = kernel.function(
        _by_token(query).contiguous(),
        keys,
        values,
        packed.query_ends,
        packed.key_ends,
        packed.most_queries,
        packed.most_keys,
        scale=scaling,
        # Both are aligned to the last query and key; a window of transformers counts the token itself.
        window_size=(-1, 0) if window is None else (window - 1, 0),
        **options,
    )
    return output.transpose(0, 1)[None]


def _by_token(tensor: Tensor) -> Tensor:
    return tensor[0].transpose(0, 1)  # [1, H, T, D] -> [T, H, D]


class _Gather(torch.autograd.Function):
    """
    Rows of two tensors, some of them several times. The gradients of one row are added in fp32: one prompt has as many
    as it has responses.
    """

    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        ctx.num_rows = key.shape[0]
        return key.index_select(0, index), value.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        added = []
        for grad in grads:
            total = grad.new_zeros((ctx.num_rows, *grad.shape[1:]), dtype=torch.float32)
            added.append(total.index_add_(0, index, grad.float()).to(grad.dtype))
        return (*added, None)
