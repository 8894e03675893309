"""The micro-batches of a step in one array, for transfer between processes and into pinned memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .micro_batch import MicroBatch
from .shared_layout import SharedLayout


ALIGNED = 8  # bytes: alignment that suits an array of any dtype
FIELDS = tuple(item.name for item in dataclasses.fields(MicroBatch))


class StepBatches:
    """
    One process's micro-batches of a step, as a sequence.

    In pickles and in pinned memory all micro-batches are one array of bytes: a tensor sent separately between processes
    costs a file, and one pinned separately costs a call.

    Args:
        batches (`list[MicroBatch]`): The micro-batches; `data` is not set in any.
    """

    def __init__(self, batches: list[MicroBatch]):
        self._batches: list[MicroBatch | None] = list(batches)
        self._packed: _Packed | None = None

    @classmethod
    def of(cls, packed: _Packed) -> StepBatches:
        """The micro-batches, unpacked on access."""
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
        """Returns them in one array."""
        return self._packed or _Packed.of(list(self))

    def pin_memory(self) -> StepBatches:
        """Returns them in pinned memory; torch's loader calls this."""
        packed = self.packed()
        return StepBatches.of(_Packed(packed.numbers.pin_memory(), packed.table))


@dataclasses.dataclass
class _Packed:
    """
    Args:
        numbers (`torch.ByteTensor` of shape `(num_bytes,)`): All arrays, concatenated.
        table (`list[tuple]`): The fields of each micro-batch: values, or a `_Part`.
    """

    numbers: Tensor
    table: list[tuple[Any, ...]]

    @classmethod
    def of(cls, batches: list[MicroBatch]) -> _Packed:
        parts: list[np.ndarray] = []
        end = 0

        def put(values: np.ndarray, form: str) -> _Part:
            nonlocal end
            begin, values = end, np.ascontiguousarray(values)
            end += -(-values.nbytes // ALIGNED) * ALIGNED
            parts.extend((values.reshape(-1).view(np.uint8), np.zeros(end - begin - values.nbytes, dtype=np.uint8)))
            return _Part((form, str(values.dtype), begin, values.nbytes, values.shape))

        def packed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return put(value.numpy(), "tensor")
            if isinstance(value, np.ndarray):
                return put(value, "array")
            if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
                return put(np.array(value), "list")
            if isinstance(value, SharedLayout):
                return _Layout((packed(value.segments), packed(value.needed)))
            return value

        table = [tuple(packed(getattr(batch, name)) for name in FIELDS) for batch in batches]
        return cls(torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.uint8), *parts])), table)

    def read(self, number: int) -> MicroBatch:
        """Returns one micro-batch, as views of the array."""
        return MicroBatch(**{name: self._value(value) for name, value in zip(FIELDS, self.table[number])})

    def _value(self, value: Any) -> Any:
        if isinstance(value, _Layout):
            return SharedLayout(*map(self._value, value))
        if not isinstance(value, _Part):
            return value
        form, dtype, begin, length, shape = value
        tensor = self.numbers[begin : begin + length].view(getattr(torch, dtype)).view(shape)
        return tensor if form == "tensor" else tensor.numpy() if form == "array" else tensor.tolist()


class _Part(tuple):
    """`tensor`, `array` or `list`; dtype; first byte and number of bytes; shape."""

    __slots__ = ()


class _Layout(tuple):
    """Segments and `needed` of a `SharedLayout`."""

    __slots__ = ()
