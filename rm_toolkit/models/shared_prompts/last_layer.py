"""Skips unused work: the last layer's MLP runs only for the tokens at which a reward or a target is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def trim_last_layer(backbone: PreTrainedModel) -> bool:
    """
    Lets the last layer's MLP compute only the tokens that `SharedLayout.needed` lists; the others leave it as zeros.

    No later layer mixes tokens, so rewards, losses and gradients are the same. With 8 layers this saves about a twelfth
    of the work. It has no effect without a layout, or if activations are computed again in the backward pass.

    Args:
        backbone (`PreTrainedModel`): The model under the head, changed in place.

    Returns:
        `bool`: Whether the model is of the usual structure: `layers`, each with a dense `mlp`.
    """
    layers = getattr(backbone, "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) and len(layers) else None
    if mlp is None or not type(mlp).__name__.endswith("MLP"):
        return False
    if not any(isinstance(getattr(hook, "__self__", None), _Trim) for hook in mlp._forward_hooks.values()):
        trim = _Trim()
        layers[-1].register_forward_pre_hook(trim.enter, with_kwargs=True)
        mlp.register_forward_pre_hook(trim.select)
        mlp.register_forward_hook(trim.scatter)
    return True


class _Trim:
    """The hooks of one layer, and the tokens that the present forward pass needs."""

    def __init__(self):
        self.needed: Tensor | None = None
        self.num_tokens = 0

    def enter(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        layout = kwargs.get("shared_layout")
        again = layer.training and getattr(layer, "gradient_checkpointing", False)
        self.needed = None if layout is None or again else layout.needed

    def select(self, mlp: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.needed is None:
            return None
        self.needed = self.needed.to(args[0].device)
        self.num_tokens = args[0].shape[1]
        return (args[0][:, self.needed], *args[1:])

    def scatter(self, mlp: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.needed is None:
            return None
        whole = output.new_zeros(output.shape[0], self.num_tokens, output.shape[2])
        return torch.index_copy(whole, 1, self.needed, output)
