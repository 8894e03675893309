"""What weights are kept in, and what a recipe's `bf16` and `fp16` compute in."""

from __future__ import annotations

import torch


# Weights, gradients and optimizer states, under every engine: a learning rate of 1e-6 changes nothing in bf16 weights.
WEIGHT_DTYPE = torch.float32
# What autocast computes in; it leaves the above as it is.
AUTOCAST_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def compute_dtype(precision: str | None) -> torch.dtype:
    """The type that matrix products are computed in, where `precision` is `bf16`, `fp16`, or `no` (or None)."""
    return getattr(torch, AUTOCAST_DTYPES[precision]) if precision in AUTOCAST_DTYPES else WEIGHT_DTYPE
