"""Whether a model computes the same from a shared row as from separate ones: tried, not looked up in a list."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...batches.prefixes import flat_row
from ...errors import class_and_line
from .attention import UnsupportedAttentionError, enable_shared_attention
from .last_layer import trim_last_layer


# Largest relative difference of hidden states and of gradients; on a GPU products of fp32 may be rounded to TF32.
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}
_VOCAB_SIZE = 64
_WINDOW = 8


def sharing_problem(
    backbone: PreTrainedModel, max_length: int, device: torch.device | str | None = None
) -> str | None:
    """
    Tries the shared layout on a model of two layers (more where layers are of several kinds) of the same config.

    The trial has random weights, a small vocabulary, a narrow MLP, and windows shorter than its texts where the
    model's own are shorter than `max_length`; nothing else differs. Hidden states and gradients of texts computed one
    by one, by the model as it is, are compared with those of one shared row.

    Args:
        backbone (`PreTrainedModel`): The model under the reward head.
        max_length (`int`): Tokens of the longest text that it will read.
        device (`torch.device` or `str`, *optional*): Where to try; by default where the model is.

    Returns:
        `str` or `None`: Why the layout cannot be used, for a message; `None` where it is exact.
    """
    device = torch.device(device or next(backbone.parameters()).device)
    forked = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=forked), torch.enable_grad():
            return _try(type(backbone), _small_config(backbone.config, max_length), device)
    except UnsupportedAttentionError as error:
        return str(error)
    # Whatever a model makes of an argument it does not know is an answer too: it runs plain.
    except Exception as error:
        return f"the trial failed ({class_and_line(error, 120)})"


def _small_config(config: PreTrainedConfig, max_length: int) -> PreTrainedConfig:
    small = copy.deepcopy(config)
    num_layers = config.num_hidden_layers
    kinds = list(getattr(config, "layer_types", None) or [])
    chosen = sorted({kinds.index(kind) for kind in kinds} | {0, min(1, num_layers - 1)})
    for name, value in vars(config).items():  # what is listed layer by layer
        if isinstance(value, list) and len(value) == num_layers:
            setattr(small, name, [value[k] for k in chosen])
    small.num_hidden_layers = len(chosen)
    small.vocab_size = _VOCAB_SIZE
    small.pad_token_id, small.bos_token_id, small.eos_token_id = 0, 1, 2
    if isinstance(getattr(config, "intermediate_size", None), int):
        small.intermediate_size = min(config.intermediate_size, 128)
    for name in ("sliding_window", "attention_chunk_size"):
        window = getattr(config, name, None)
        if isinstance(window, int) and window < max_length:
            setattr(small, name, _WINDOW)
    small._attn_implementation = config._attn_implementation.removeprefix("rm_toolkit_")
    return small


def _try(model_class: type[PreTrainedModel], config: PreTrainedConfig, device: torch.device) -> str | None:
    torch.manual_seed(0)
    model = model_class(config).to(device=device, dtype=torch.float32)
    _draw_weights(model)
    rng = np.random.default_rng(0)
    beginnings = [rng.integers(3, _VOCAB_SIZE, length) for length in (23, 31)]
    texts = [
        np.concatenate([beginnings[k], rng.integers(3, _VOCAB_SIZE, length)])
        for k, length in ((0, 9), (0, 17), (0, 4), (1, 12), (1, 21))
    ]
    texts.append(rng.integers(3, _VOCAB_SIZE, 14))
    row = flat_row(texts)
    ends = [row.index(k, np.array([len(text) - 1])) for k, text in enumerate(texts)]
    last = row.layout.needed = torch.from_numpy(np.concatenate(ends))
    direction = torch.randn(len(texts), config.get_text_config().hidden_size).to(device)
    model.eval()
    plain = torch.stack([_hidden(model, text)[-1] for text in texts])
    expected = _gradients(model, (plain * direction).sum())
    enable_shared_attention(model.config)
    trim_last_layer(model)
    # In training mode first, for what only training does, such as dropout on attention weights.
    for mode in (True, False):
        model.train(mode)
        hidden = _hidden(
            model,
            row.input_ids,
            position_ids=torch.from_numpy(row.position_ids)[None].to(device),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            shared_layout=row.layout,
        )
    shared = hidden[last.to(device)]
    found = _gradients(model, (shared * direction).sum())
    tolerance = TOLERANCE.get(device.type, TOLERANCE["cpu"])
    difference = _relative(shared.detach(), plain.detach())
    if not difference <= tolerance:
        return f"hidden states differ by {difference:.1e} in a trial"
    # Some gradients are zero but for rounding (a bias on keys, say): those are measured against the largest.
    floor = 1e-3 * max(float(grad.norm()) for grad in expected.values())
    difference = max(_relative(found[name], grad, floor) for name, grad in expected.items())
    return None if difference <= tolerance else f"gradients differ by {difference:.1e} in a trial"


def _hidden(model: PreTrainedModel, ids: np.ndarray, **arguments: object) -> Tensor:
    device = next(model.parameters()).device
    input_ids = torch.from_numpy(ids.astype(np.int64))[None].to(device)
    return model(input_ids=input_ids, use_cache=False, **arguments).last_hidden_state[0]


def _draw_weights(model: nn.Module) -> None:
    """Weights of a size at which attention is far from uniform, so that a token seen wrongly shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    grads = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    return {name: grad for (name, _), grad in zip(named, grads) if grad is not None}


def _relative(found: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    return float((found - expected).norm()) / max(float(expected.norm()), floor, 1e-12)
