"""`use_liger_kernel`: Liger's fused RMSNorm, SwiGLU and RoPE on one backbone, without changing the rest of the process."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import InputError, name_list


# They would replace the forward pass of a causal LM, which a reward model lacks; the LM loss is chunked already.
_OFF = ("fused_linear_cross_entropy", "cross_entropy")


def check_liger(device: torch.device | str) -> None:
    """
    Refuses Liger where it cannot run, before anything is loaded.

    Args:
        device (`torch.device` or `str`): Where the run computes.

    Raises:
        `InputError`: if Liger is not installed, or the run is on a CPU.
    """
    if torch.device(device).type == "cpu":
        raise InputError(
            "`use_liger_kernel` is true, but this run computes on a CPU, and Liger has no CPU kernels. Leave it out."
        )
    if importlib.util.find_spec("liger_kernel") is None:
        raise InputError(
            "`use_liger_kernel` is true, which needs liger-kernel, which is not installed: "
            'pip install -c constraints.txt -e ".[gpu]"; or leave it out.'
        )


def liger_options(model_type: str, options: dict[str, bool] | None) -> dict[str, bool]:
    """
    Liger's options for a type of model: the user's, with the losses of a causal LM off.

    Args:
        model_type (`str`): As in the backbone's config.
        options (`dict[str, bool]`, *optional*): From `liger_kernel_config`.

    Raises:
        `InputError`: if Liger does not support the type of model or an option, or a loss is requested.
    """
    known = _functions()
    if model_type not in known:
        raise InputError(
            f"`use_liger_kernel` is true, but Liger has no kernels for models of type '{model_type}'; it has for "
            f"{name_list(sorted(known))}. Leave it out."
        )
    possible = [name for name in inspect.signature(known[model_type]).parameters if name != "model"]
    for name, value in (options or {}).items():
        if name in _OFF and value:
            raise InputError(
                f"`liger_kernel_config` turns on `{name}`, a loss of causal LMs that a reward model does not compute. "
                "Remove it."
            )
        if name not in possible:
            choices = name_list([name for name in possible if name not in _OFF])
            raise InputError(f"`liger_kernel_config` has '{name}'; for '{model_type}' Liger knows {choices}.")
    return {**(options or {}), **{name: False for name in _OFF if name in possible}}


def apply_liger(backbone: PreTrainedModel, options: dict[str, bool] | None = None) -> None:
    """
    Makes a backbone compute with Liger's kernels. Parameters, keys and hooks do not change.

    Liger replaces classes and functions of the architecture's module for the whole process. Classes are restored, so
    that later models are stock. The function that rotates queries and keys is looked up at every call; it uses Liger
    only on a GPU, so a model of the same type on a CPU is computed as before.

    Args:
        backbone (`PreTrainedModel`): The model under the head, with its adapter; changed in place.
        options (`dict[str, bool]`, *optional*): From `liger_kernel_config`.

    Raises:
        `InputError`: as [`liger_options`]; or if Liger refuses this class of model.
    """
    model_type = backbone.config.model_type
    chosen = liger_options(model_type, options)
    with _process_as_it_was(sys.modules[type(backbone).__module__]):
        try:
            _functions()[model_type](model=backbone, **chosen)
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"`use_liger_kernel` is true, but Liger cannot change a {type(backbone).__name__} ({error}). Leave it out."
            ) from error


def _functions() -> dict[str, Callable[..., None]]:
    """Liger's patch function by type of model."""
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:
        raise InputError(f"`use_liger_kernel` is true, but liger-kernel cannot be imported ({error}).") from error
    return MODEL_TYPE_TO_APPLY_LIGER_FN


@contextlib.contextmanager
def _process_as_it_was(module: ModuleType) -> Iterator[None]:
    before = dict(vars(module))
    try:
        yield
    finally:
        for name, stock in before.items():
            new = getattr(module, name)
            if new is stock:
                continue
            rotates = isinstance(stock, FunctionType) and callable(new)
            setattr(module, name, _on_gpu(stock, new) if rotates else stock)


def _on_gpu(stock: Callable, kernel: Callable) -> Callable:
    stock = getattr(stock, "stock", stock)

    @functools.wraps(stock)
    def chosen(query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return (stock if query.device.type == "cpu" else kernel)(query, *args, **kwargs)

    chosen.stock = stock
    return chosen
