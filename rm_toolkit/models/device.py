"""The device that a user names, or the best available one."""

from __future__ import annotations

import torch

from ..errors import InputError, one_line


def compute_device(name: str | torch.device | None = None) -> torch.device:
    """
    Returns the device to compute on.

    Args:
        name (`str` or `torch.device`, *optional*): `cpu`, `cuda`, `cuda:1`, … Default: a GPU where there is one.

    Raises:
        `InputError`: if this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ImportError, AttributeError) as error:
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        there = f"cpu and {number} of cuda (cuda:0 and so on)" if number else "only cpu"
        raise InputError(
            f"the device is '{one_line(str(name), 80)}', but this machine has {there}. Name another."
        ) from error
    return device
