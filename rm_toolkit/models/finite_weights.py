"""Refuses weights with NaN or infinite values where a run would start from them: no step could repair them."""

from __future__ import annotations

import torch

from ..errors import InputError


def check_finite_weights(model: torch.nn.Module, name: str) -> None:
    """
    Refuses a model whose weights are not finite. One pass over them; what a process does not hold is not checked.

    Args:
        model (`torch.nn.Module`): As loaded.
        name (`str`): Folder or Hub id that it was loaded from.

    Raises:
        `InputError`: naming the model and its first such weight.
    """
    for weight, values in model.named_parameters():
        if not values.is_floating_point() or values.is_meta or values.element_size() == 1:  # torch cannot ask fp8
            continue
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                f"the weights of '{name}' are not finite (NaN or inf): {weight}. Download or save the model again, or start "
                "from another one."
            )
