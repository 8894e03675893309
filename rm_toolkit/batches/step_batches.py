"""The micro-batches of a step in a few arrays: how they travel between processes, and into pinned memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .collator import MicroBatch
from .shared_layout import SharedLayout


FIELDS = tuple(item.name for item in dataclasses.fields(MicroBatch))


class StepBatches:
    """
    One process's micro-batches of a step, to be read as a list.

    In pickles and in pinned memory they are one array for each type of number, however many micro-batches there are: every
    tensor that goes between processes by itself costs a file, and every one that is pinned by itself a call.

    Args:
        batches (`list[MicroBatch]`): The micro-batches; none holds `data`.
    """

    def __init__(self, batches: list[MicroBatch]):
        self._batches: list[MicroBatch | None] = list(batches)
        self._packed: _Packed | None = None

    @classmethod
    def of(cls, packed: _Packed) -> StepBatches:
        """The same, read when they are asked for."""
        step = cls([])
        step._batches, step._packed = [None] * len(packed.table), packed
        return step

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> MicroBatch:
        batch = self._batches[number]
        if batch is None:
            batch = self._batches[number] = self._packed.read(number)
        return batch

    def __iter__(self) -> Iterator[MicroBatch]:
        return (self[number] for number in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return StepBatches.of, (self.packed(),)

    def packed(self) -> _Packed:
        """Returns them in a few arrays."""
        return self._packed or _Packed.of(list(self))

    def pin_memory(self) -> StepBatches:
        """Returns them in memory that a GPU reads from by itself; torch's loader calls this."""
        packed = self.packed()
        return StepBatches.of(
            _Packed({kind: array.pin_memory() for kind, array in packed.arrays.items()}, packed.table)
        )


@dataclasses.dataclass
class _Packed:
    """
    Args:
        arrays (`dict[str, torch.Tensor]`): All numbers of one type, one behind the other.
        table (`list[tuple]`): Of each micro-batch, what its fields are: values, or a `_Part`.
    """

    arrays: dict[str, Tensor]
    table: list[tuple[Any, ...]]

    @classmethod
    def of(cls, batches: list[MicroBatch]) -> _Packed:
        parts: dict[str, list[Tensor]] = {}
        ends: dict[str, int] = {}

        def put(value: Any, form: str) -> tuple[Any, ...]:
            tensor = torch.as_tensor(value)
            kind = str(tensor.dtype)
            begin = ends.get(kind, 0)
            ends[kind] = begin + tensor.numel()
            parts.setdefault(kind, []).append(tensor.reshape(-1))
            return _Part((form, kind, begin, *tensor.shape))

        def packed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return put(value, "tensor")
            if isinstance(value, np.ndarray):
                return put(value, "array")
            if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
                return put(np.array(value), "list")
            if isinstance(value, SharedLayout):
                return _Layout((packed(value.segments), packed(value.needed)))
            return value

        table = [tuple(packed(getattr(batch, name)) for name in FIELDS) for batch in batches]
        return cls({kind: torch.cat(tensors) for kind, tensors in parts.items()}, table)

    def read(self, number: int) -> MicroBatch:
        """Returns one micro-batch, as a view of the arrays."""
        return MicroBatch(**{name: self._value(value) for name, value in zip(FIELDS, self.table[number])})

    def _value(self, value: Any) -> Any:
        if isinstance(value, _Layout):
            return SharedLayout(*map(self._value, value))
        if not isinstance(value, _Part):
            return value
        form, kind, begin, *shape = value
        tensor = self.arrays[kind][begin : begin + math.prod(shape)].view(shape)
        return tensor if form == "tensor" else tensor.numpy() if form == "array" else tensor.tolist()


class _Part(tuple):
    """`tensor`, `array` or `list`; the array; where it begins there; its shape."""

    __slots__ = ()


class _Layout(tuple):
    """Segments and `needed` of a `SharedLayout`."""

    __slots__ = ()
