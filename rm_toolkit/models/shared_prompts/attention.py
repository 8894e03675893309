"""Attention over a flat row of sequences that share prefixes: attention between responses is never computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...batches.shared_layout import SharedLayout
from .segment_attention import HAS_FLASH, SegmentAttention
from .varlen_attention import kernel_for, varlen_shared_attention


# Attention implementations that can be wrapped; the wrapper passes everything through where there is no layout.
WRAPPED = ("sdpa",)
# Arguments that models pass and that do not change what attention computes.
_HARMLESS = {"position_ids", "use_cache", "is_causal", "output_attentions", "output_hidden_states", "return_dict"}


# What computed attention, while somebody wants to know: see [`noted_kernels`].
_noted: set[str] | None = None


class UnsupportedAttentionError(RuntimeError):
    """The model's attention is of a kind that the shared layout does not compute."""


def enable_shared_attention(config: PreTrainedConfig) -> None:
    """
    Makes a model's attention understand the argument `shared_layout`; without it, it computes what it did before.

    Args:
        config (`PreTrainedConfig`): The model's config; this is not saved with it.

    Raises:
        `UnsupportedAttentionError`: if the model's attention implementation is none that can be wrapped.
    """
    original = config._attn_implementation
    if original.startswith("rm_toolkit_"):
        return
    if original not in WRAPPED:
        raise UnsupportedAttentionError(f"its attention implementation is '{original}'")
    name = f"rm_toolkit_{original}"
    AttentionInterface.register(name, _wrapper(ALL_ATTENTION_FUNCTIONS[original]))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    config._attn_implementation = name


def _wrapper(original: Callable) -> Callable:
    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        shared_layout: SharedLayout | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        if shared_layout is None:
            return original(module, query, key, value, attention_mask, **kwargs)
        scaling, window = kwargs.pop("scaling", None), kwargs.pop("sliding_window", None)
        check_supported(kwargs)
        output = shared_attention(query, key, value, shared_layout, scaling, window)
        return output.transpose(1, 2).contiguous(), None

    return forward


@contextlib.contextmanager
def noted_kernels() -> Iterator[set[str]]:
    """Collects what computes shared attention within the block, and in which type, for messages."""
    global _noted
    before = _noted
    _noted = names = set()
    try:
        yield names
    finally:
        _noted = before


def _note(name: str, query: Tensor) -> None:
    if _noted is not None:
        _noted.add(f"{name} in {str(query.dtype).removeprefix('torch.')}")


def check_supported(arguments: dict[str, Any]) -> None:
    """
    Refuses what would change the attention weights: soft caps, sinks, biases, dropout.

    Raises:
        `UnsupportedAttentionError`: naming the argument.
    """
    for name, value in arguments.items():
        if value is None or name in _HARMLESS or (name == "dropout" and value == 0.0):
            continue
        shown = value if isinstance(value, (bool, int, float, str)) else type(value).__name__
        raise UnsupportedAttentionError(f"its attention takes `{name}` ({shown})")


# `torch_compile` compiles up to it and from it on: it branches by each micro-batch's layout.
@torch.compiler.disable
def shared_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SharedLayout,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """
    Causal attention within each segment of a row, and of each segment to its prefix.

    Args:
        query (`torch.Tensor` of shape `(1, num_heads, num_tokens, head_dim)`): Queries.
        key, value (`torch.Tensor` of shape `(1, num_key_value_heads, num_tokens, head_dim)`): Keys and values.
        layout (`SharedLayout`): Which tokens see which.
        scaling (`float`, *optional*): Factor on the products, `head_dim ** -0.5` by default.
        window (`int`, *optional*): Tokens of its sequence, prefix included, that one sees, itself included: what
            transformers calls `sliding_window`.

    Returns:
        `torch.Tensor` of shape `(1, num_heads, num_tokens, head_dim)`.

    Raises:
        `UnsupportedAttentionError`: if `window` is below 1.
    """
    if window is not None and window < 1:
        raise UnsupportedAttentionError(f"its attention takes `sliding_window` ({window})")
    if window is not None and window >= layout.longest:
        window = None
    kind = query.device.type
    if torch.is_autocast_enabled(
        kind
    ):  # stock attention is on autocast's list, these kernels are not: RoPE gives fp32
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    kernel = kernel_for(str(query.device), query.dtype, query.shape[-1], value.shape[-1])
    if kernel is not None:
        _note("FlashAttention over packed sequences", query)
        return varlen_shared_attention(query, key, value, layout, scaling, window, kernel)
    if kind == "cuda":
        from .flex_attention import flex_shared_attention

        _note("FlexAttention", query)
        return flex_shared_attention(query, key, value, layout, scaling, window)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    same_width = query.shape[-1] == value.shape[-1]
    if kind == "cpu" and same_width and HAS_FLASH:
        _note("blocks of prompts and responses", query)
        return SegmentAttention.apply(query, key, value, layout, scaling, window)
    _note("stock attention, sequence by sequence", query)
    return sdpa_shared_attention(query, key, value, layout, scaling, window)


def sdpa_shared_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: SharedLayout,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """
    The same by stock attention calls, on any device: each sequence by itself, the prefix again for each of them.

    Args and returns as [`shared_attention`], with as many key as query heads.
    """
    outputs = []
    for begin, end, prefix_begin, prefix_end in layout.segments.tolist():
        parts = [
            torch.cat([tensor[:, :, prefix_begin:prefix_end], tensor[:, :, begin:end]], dim=2)
            for tensor in (query, key, value)
        ]
        mask = None
        if window is not None and window < parts[0].shape[2]:
            position = torch.arange(parts[0].shape[2], device=query.device)
            distance = position[:, None] - position
            mask = (distance >= 0) & (distance < window)
        output = F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=mask is None, scale=scaling)
        outputs.append(output[:, :, prefix_end - prefix_begin :])
    return torch.cat(outputs, dim=2)
