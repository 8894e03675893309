"""The type of the weights, and the compute type of a recipe's `bf16` and `fp16`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


# Weights, gradients and optimizer states, under every engine: a learning rate of 1e-6 does not change bf16 weights.
WEIGHT_DTYPE = torch.float32
# Compute type of autocast, which does not change the types above.
AUTOCAST_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def compute_dtype(precision: str | None) -> torch.dtype:
    """The type of matrix products, for a `precision` of `bf16`, `fp16`, or `no` (or None)."""
    return getattr(torch, AUTOCAST_DTYPES[precision]) if precision in AUTOCAST_DTYPES else WEIGHT_DTYPE


def tf32_is_on() -> bool:
    """Whether products of fp32 tensors may be rounded to TF32 on a GPU."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # torch 2.9; asking in the old way may raise there
        return matmul.fp32_precision == "tf32"
    return matmul.allow_tf32


@contextlib.contextmanager
def same_tf32() -> Iterator[None]:
    """A context that restores the TF32 setting afterwards."""
    backends = torch.backends
    if hasattr(backends, "fp32_precision"):
        switches = [(backends, "fp32_precision")]
    else:
        switches = [(backends.cuda.matmul, "allow_tf32"), (backends.cudnn, "allow_tf32")]
    before = [getattr(owner, name) for owner, name in switches]
    try:
        yield
    finally:
        for (owner, name), value in zip(switches, before):
            setattr(owner, name, value)


class WithoutTF32(TorchFunctionMode):
    """A context in which linear layers with one output are computed as a product and a sum, forward and backward,
    without
    TF32."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is not F.linear or kwargs or args[1].shape[0] != 1:
            return func(*args, **(kwargs or {}))
        hidden, weight, bias = (*args, None)[:3]
        reward = (hidden * weight[0]).sum(-1, keepdim=True)
        return reward if bias is None else reward + bias
