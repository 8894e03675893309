"""Bytes of the tensors that are alive during a computation, on real or fake tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class PeakTracker(TorchDispatchMode):
    """
    Counts the tensors that operations inside it create: bytes alive now, and the peak.

    Under `FakeTensorMode`, where tensors have shapes but no memory, this is what a step would take. Values are not
    known there; the two that a training step of this toolkit depends on are assumed: a comparison is true, and
    `bincount` has its minimum length.

    Args:
        known (`Iterable[Tensor]`): Tensors that existed before; they and their views do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, int] = {}
        self._known = [tensor.untyped_storage() for tensor in known]  # kept alive, so that no address is reused
        self._addresses = {storage._cdata for storage in self._known}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        fake = any(isinstance(value, torch._subclasses.FakeTensor) for value in tree_iter(args))
        if fake and func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1
        if fake and func is torch.ops.aten.bincount.default:
            return args[0].new_ones(max(1, (kwargs or {}).get("minlength", 0)))
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages or key in self._addresses:
            return
        size = storage.nbytes()
        self._storages[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._storages.pop(key, 0)
