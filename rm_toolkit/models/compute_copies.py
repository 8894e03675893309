"""Weights in the 16-bit type that autocast computes in: cast once for all micro-batches of an optimizer step."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from .heads import modules_before_head, reward_head
from .lm_head import LMHead
from .precision import WEIGHT_DTYPE
from .reward_model import RewardModel


class ComputeCopies:
    """
    The 16-bit copies of a model's fp32 weights, valid until the weights change.

    Autocast casts every weight again in every forward pass (with checkpointing, in the backward pass too), and frozen
    weights at every use. Within [`used`], linear layers and the LM head read copies instead, each made by one cast,
    through which the gradients of all micro-batches flow to the fp32 weight: every product equals autocast's, bit for
    bit. If autocast is off, as at the reward head, the fp32 weight is read.

    Not for sharded weights (ZeRO-3, FSDP): the copies would be of whole weights.

    Args:
        model (`RewardModel`): The model, with its adapter.
        dtype (`torch.dtype`): Compute type of autocast.
    """

    def __init__(self, model: RewardModel, dtype: torch.dtype):
        self.dtype = dtype
        self._modules = _multiplying_modules(model)
        self._frozen: dict[nn.Parameter, Tensor] = {}

    @contextlib.contextmanager
    def used(self, keep_frozen: bool = False) -> Iterator[None]:
        """
        A context in which the copies are read; the weights must not change.

        Args:
            keep_frozen (`bool`): Whether to keep copies of frozen weights for the next time.
        """
        made: dict[nn.Parameter, Tensor] = {}
        try:
            for module in self._modules:
                # Set on the instance, bypassing `nn.Module`: parameters, state dict and hooks do not change.
                own = module.__dict__
                if not isinstance(module, LMHead):
                    own["weight_copy"], own["bias_copy"] = (self._copy(p, made) for p in (module.weight, module.bias))
                    own["forward"] = types.MethodType(_FORWARDS[type(module).forward], module)
                elif torch.is_grad_enabled():  # no language-modeling loss otherwise
                    own["weight_copy"] = self._copy(module.weight, made)
            yield
        finally:
            for module in self._modules:
                for name in ("weight_copy", "bias_copy", "forward"):
                    module.__dict__.pop(name, None)
            if not keep_frozen:
                self.drop()

    def drop(self) -> None:
        """Forgets the copies of frozen weights, which may change now."""
        self._frozen.clear()

    def _copy(self, parameter: nn.Parameter | None, made: dict[nn.Parameter, Tensor]) -> Tensor | None:
        if parameter is None or parameter.dtype != WEIGHT_DTYPE:  # such as a 4-bit weight
            return parameter
        copies = made if parameter.requires_grad else self._frozen
        if parameter not in copies:
            copies[parameter] = parameter.to(self.dtype)
        return copies[parameter]


def _linear(self: nn.Linear, input: Tensor) -> Tensor:
    if torch.is_autocast_enabled(input.device.type):
        return F.linear(input, self.weight_copy, self.bias_copy)
    return F.linear(input, self.weight, self.bias)


def _conv1d(self: Conv1D, x: Tensor) -> Tensor:
    copied = torch.is_autocast_enabled(x.device.type)
    weight, bias = (self.weight_copy, self.bias_copy) if copied else (self.weight, self.bias)
    return torch.addmm(bias, x.view(-1, x.size(-1)), weight).view(*x.size()[:-1], self.nf)


# Exact classes, so that a subclass that computes something else (such as bitsandbytes') is left alone.
_FORWARDS = {nn.Linear.forward: _linear, Conv1D.forward: _conv1d}


def _multiplying_modules(model: RewardModel) -> list[nn.Module]:
    """Linear layers of the backbone and the LM head; those before the reward head only if `cls` uses them."""
    classifier, left_out = model.base_classifier, set()
    if model.settings.pooling_type != "cls":
        unused = [classifier.get_submodule(name) for name in modules_before_head(classifier)]
        left_out = {id(module) for part in (reward_head(classifier), *unused) for module in part.modules()}
    return [
        module
        for module in model.modules()
        if id(module) not in left_out
        and "forward" not in module.__dict__
        and (isinstance(module, LMHead) or type(module).forward in _FORWARDS)
    ]
