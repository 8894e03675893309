"""Interpolates tensors of several models, and writes safetensors files of them one tensor at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import InputError


def interpolate(general: Tensor, customized: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """
    Returns `general + sum of weight * (customized - general)`, computed in fp32.

    A weight of 1 gives that tensor itself, and weights of 0 the general one, bit for bit; so do tensors that all
    share.

    Args:
        general (`torch.Tensor` of any shape): Tensor of the general model.
        customized (`Sequence[torch.Tensor]` of the same shape): Tensor of each customized model.
        weights (`Sequence[float]`): Weight of each customized model.

    Returns:
        `torch.Tensor` of the same shape: fp32, or unchanged if it is a copy or not a floating-point tensor.

    References:
        - Interpolating weights of a general and a fine-tuned model: https://huggingface.co/papers/2109.01903
        - For reward models: https://huggingface.co/papers/2401.12187
    """
    if not general.is_floating_point():
        return general
    used = [(tensor, weight) for tensor, weight in zip(customized, weights) if weight]
    if not used:
        return general
    if len(used) == 1 and used[0][1] == 1:
        return used[0][0]
    base = general.to(torch.float32)
    total = base.clone()
    for tensor, weight in used:
        total.add_(tensor.to(torch.float32).sub(base), alpha=weight)
    return total


def write_like(template: Path, target: Path, tensor_of: Callable[[str], Tensor]) -> None:
    """
    Writes a safetensors file with the names, shapes, dtypes and order of another one, but new values.

    Only one tensor is held at a time: the header is that of the template, and the values follow in its order.

    Args:
        template (`Path`): A safetensors file.
        target (`Path`): The file to write.
        tensor_of (`Callable`): Name -> tensor of the template's shape; it is converted to the template's dtype.

    References:
        - The format: https://huggingface.co/docs/safetensors/index#format
    """
    with open(template, "rb") as file:
        prefix = file.read(8)
        header = file.read(struct.unpack("<Q", prefix)[0])
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    with open(target, "wb") as file:
        file.write(prefix + header)
        for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
            dtype = read_tensor(template, name).dtype
            tensor = tensor_of(name).to(dtype).contiguous().reshape(-1)
            begin, end = entries[name]["data_offsets"]
            if tensor.numel() * tensor.element_size() != end - begin:
                raise InputError(f"{template}: '{name}' has a size that differs from the computed one.")
            if end > begin:
                file.write(memoryview(tensor.view(torch.uint8).numpy()))


def read_tensor(path: Path, name: str) -> Tensor:
    """
    Reads one tensor. The file is opened for each tensor, because while it is open, everything read from it stays in
    memory.
    """
    with safe_open(path, framework="pt") as handle:
        return handle.get_tensor(name)
