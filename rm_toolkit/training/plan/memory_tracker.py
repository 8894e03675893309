"""Bytes of the tensors that are alive while something is computed, on real tensors or on fake ones."""

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
    Counts what the operations inside it create: the bytes alive now, and the most there were.

    Under `FakeTensorMode`, where tensors have shapes and no memory, this is what a step would take. There, values that
    an operation depends on are not known; the two that a training step of this toolkit asks for are answered: a
    comparison holds, and `bincount` has the length that it is given at least.

    Args:
        known (`Iterable[Tensor]`): Tensors that were there before; views of them, and they themselves, do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, int] = {}
        self._known = [tensor.untyped_storage() for tensor in known]  # held, so that no address is used again
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
