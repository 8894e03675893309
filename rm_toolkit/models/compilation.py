"""`torch_compile`: the layers of a backbone compiled in place, one by one."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import InputError, name_list


def check_backend(backend: str) -> None:
    """
    Refuses a backend of `torch.compile` that does not exist.

    Raises:
        `InputError`: naming the existing ones.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError(f"`torch_compile_backend` is '{backend}'; it must be one of {name_list(sorted(known))}.")


def layers_of(backbone: PreTrainedModel) -> nn.ModuleList | None:
    """
    Returns the list of a backbone's layers: `layers` of most decoders, `h` of GPT-2, `encoder.layer` of BERT; `None` if
    it has none.
    """
    number = backbone.config.get_text_config().num_hidden_layers
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    return None


def compile_layers(backbone: PreTrainedModel, backend: str, mode: str | None = None) -> None:
    """
    Compiles every layer in place. Parameters keep their names, modules their classes and hooks; embedding, final norm
    and heads run as before, and so does everything around the layers.

    Args:
        backbone (`PreTrainedModel`): The model under the head, changed in place.
        backend (`str`): As in `torch.compile`.
        mode (`str`, *optional*): As in `torch.compile`.

    Raises:
        `InputError`: if the model has no list of layers.
    """
    # One graph serves all layers if hooks are not compared: the last layer has the hooks that trim it.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    options = {} if mode is None else {"mode": mode}
    layers = layers_of(backbone)
    if layers is None:
        raise InputError(
            f"`torch_compile` is true, but {type(backbone).__name__} has no list of its "
            f"{backbone.config.get_text_config().num_hidden_layers} layers that could be compiled. Leave it out."
        )
    for layer in layers:
        # Micro-batches differ in length, and each length would compile a new graph.
        layer.compile(dynamic=True, backend=backend, **options)
