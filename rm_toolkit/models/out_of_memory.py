"""Recognizes out-of-memory errors, and frees what a failed computation had allocated."""

from __future__ import annotations

import gc

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


# Messages of libraries that allocate memory from the driver themselves.
OF_LIBRARIES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of a device or of the host ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return should_reduce_batch_size(error) or any(words in str(error) for words in OF_LIBRARIES)


def free_memory() -> None:
    """Frees unreferenced memory; called after the error has been dropped."""
    gc.collect()
    clear_device_cache()
