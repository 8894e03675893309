"""Whether an error says that memory ran out, and how to get back what a computation that failed had taken."""

from __future__ import annotations

import gc

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


# Of libraries that ask the driver for memory themselves.
OF_LIBRARIES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device, or of the host, ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return should_reduce_batch_size(error) or any(words in str(error) for words in OF_LIBRARIES)


def free_memory() -> None:
    """Gives back what nothing refers to any more; to be called when the error is no longer at hand."""
    gc.collect()
    clear_device_cache()
