"""Whether a model computes the same from a shared row as from separate ones: tried, not looked up in a list."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...batches.prefixes import FlatRow, flat_row
from ...errors import class_and_line, name_list
from .attention import UnsupportedAttentionError, enable_shared_attention, noted_kernels
from .last_layer import trim_last_layer


# Largest relative difference in fp32 of hidden states and of gradients; on a GPU products may be rounded to TF32.
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}
# In 16 bits, how many times the error of texts computed one by one: on the average (a mask that is wrong by one token
# gives 3 to 50 times), and of a single text or parameter.
NOISE = 2.0
SINGLE_NOISE = 8.0
# Errors below it are not compared.
_SMALLEST_ERROR = 5e-5
# In 16 bits a router may send a token elsewhere for the rounding alone, which a text or two show: tried again.
_ATTEMPTS = 3
_VOCAB_SIZE = 64
_WINDOW = 8
# Kinds of `layer_types` whose tokens see others by attention alone.
_ATTENTION_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class Trial:
    """
    What a trial of the shared layout found.

    Args:
        problem (`str`, *optional*): Why the layout cannot be used, for a message; `None` where it is exact.
        kernels (`tuple[str, ...]`): What computed attention, for a message.
    """

    problem: str | None
    kernels: tuple[str, ...] = ()


def sharing_problem(
    backbone: PreTrainedModel,
    max_length: int,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
) -> str | None:
    """Why the shared layout cannot be used, for a message; `None` where it is exact. Args as of [`try_sharing`]."""
    return try_sharing(backbone, max_length, device, autocast).problem


def try_sharing(
    backbone: PreTrainedModel,
    max_length: int,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    prepare: Callable[[PreTrainedModel], None] | None = None,
    *,
    every_token: bool = False,
) -> Trial:
    """
    Tries the shared layout on a model of two layers (more where layers are of several kinds) of the same config.

    The trial has random weights, a small vocabulary, a narrow MLP, and windows shorter than its texts where the
    model's own are shorter than `max_length`; nothing else differs: it runs the kernels and the types of the run.
    Hidden states and gradients of texts computed one by one, by the model as it is, are compared with those of one
    shared row: in fp32 with each other, in 16 bits by how far both are from fp32.

    Args:
        backbone (`PreTrainedModel`): The model under the reward head.
        max_length (`int`): Tokens of the longest text that it will read.
        device (`torch.device` or `str`, *optional*): Where to try; by default where the model is.
        autocast (`torch.dtype`, *optional*): What the run computes in, where that is not the type of the weights.
        prepare (`Callable`, *optional*): Puts the run's own kernels into a model. In 16 bits the trial compares with
            the model without them.
        every_token (`bool`): Whether rewards are read from all tokens of a text: their mean is compared, in place of the
            last one.
    """
    device = torch.device(device or next(backbone.parameters()).device)
    if autocast is None and torch.is_autocast_enabled(device.type):
        autocast = torch.get_autocast_dtype(device.type)
    weights = next((p.dtype for p in backbone.parameters() if p.is_floating_point()), torch.float32)
    forked = [device] if device.type == "cuda" else []
    try:
        config = _small_config(backbone.config, max_length)
        with torch.random.fork_rng(devices=forked), torch.enable_grad(), noted_kernels() as kernels:
            for attempt in range(_ATTEMPTS):
                problem, by_chance = _try(
                    backbone, config, device, weights, autocast, prepare, every_token, seed=attempt
                )
                if not by_chance:
                    break
            return Trial(problem and _explained(problem, config, kernels), tuple(sorted(kernels)))
    except UnsupportedAttentionError as error:
        return Trial(str(error))
    # Whatever a model makes of an argument it does not know is an answer too: it runs plain.
    except Exception as error:
        return Trial(f"the trial failed ({class_and_line(error, 120)})")


def _explained(problem: str, config: PreTrainedConfig, kernels: set[str]) -> str:
    """What a trial found, behind its cause where that can be seen."""
    if not kernels:
        return f"its layers compute attention on their own, or pass no further arguments on to it ({problem})"
    kinds = set(getattr(config, "layer_types", None) or []) - _ATTENTION_KINDS
    if kinds:
        names = name_list(sorted(kinds))
        return f"its layers of the kind {names} read a row from left to right, other responses included ({problem})"
    return problem


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


def _try(
    backbone: PreTrainedModel,
    config: PreTrainedConfig,
    device: torch.device,
    weights: torch.dtype,
    autocast: torch.dtype | None,
    prepare: Callable[[PreTrainedModel], None] | None,
    every_token: bool,
    seed: int,
) -> tuple[str | None, bool]:
    """The problem, and whether it may be one of this seed's weights alone."""
    torch.manual_seed(seed)
    with device:  # on a GPU, large layers are made there: on a CPU that takes seconds
        model = type(backbone)(copy.deepcopy(config)).to(device=device, dtype=torch.float32)
    _draw_weights(model)
    if not any(module.p for module in _dropouts(backbone)):  # `disable_dropout` turns it off in the modules alone
        for module in _dropouts(model):
            module.p = 0.0
    model.to(weights).eval()
    texts = _texts(np.random.default_rng(seed))
    direction = torch.randn(len(texts), config.get_text_config().hidden_size).to(device)
    narrow = (autocast or weights).itemsize <= 2
    read = [0 if every_token else len(text) - 1 for text in texts]
    exact = _separately(copy.deepcopy(model).float(), texts, read, direction) if narrow else None
    if prepare is not None:
        prepare(model)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        separate = _separately(model, texts, read, direction)
        shared = _together(model, flat_row(texts), texts, read, direction)
    if exact is not None:
        return _noise_problem(shared, separate, exact)
    tolerance = TOLERANCE.get(device.type, TOLERANCE["cpu"])
    difference = _relative(shared.hidden, separate.hidden)
    if not difference <= tolerance:
        return f"hidden states differ by {difference:.1e} in a trial", False
    difference = max(error for _, error in _gradient_errors(shared, separate))
    return (None if difference <= tolerance else f"gradients differ by {difference:.1e} in a trial"), False


def _texts(rng: np.random.Generator) -> list[np.ndarray]:
    """
    Texts with a short and a longer common beginning, and one that shares nothing. A token of a short beginning weighs
    much; responses are as short as one token.
    """
    beginnings = [rng.integers(3, _VOCAB_SIZE, length) for length in (12, 33)]
    rests = ((0, 1), (0, 5), (0, 9), (0, 3), (1, 2), (1, 12), (1, 21))
    texts = [np.concatenate([beginnings[k], rng.integers(3, _VOCAB_SIZE, length)]) for k, length in rests]
    return [*texts, rng.integers(3, _VOCAB_SIZE, 14)]


@dataclass
class _Result:
    """Final hidden states, means over the tokens that are read, `[num_texts, hidden_size]`; and each parameter's gradient."""

    hidden: Tensor
    grads: dict[str, Tensor]


def _result(model: PreTrainedModel, hidden: Tensor, direction: Tensor) -> _Result:
    return _Result(hidden.detach().float(), _gradients(model, (hidden.float() * direction).sum()))


def _separately(model: PreTrainedModel, texts: list[np.ndarray], read: list[int], direction: Tensor) -> _Result:
    pooled = [_hidden(model, text)[first:].mean(0) for text, first in zip(texts, read)]
    return _result(model, torch.stack(pooled), direction)


def _together(
    model: PreTrainedModel, row: FlatRow, texts: list[np.ndarray], read: list[int], direction: Tensor
) -> _Result:
    device = direction.device
    places = [row.index(k, np.arange(first, len(text))) for k, (text, first) in enumerate(zip(texts, read))]
    row.layout.needed = torch.from_numpy(np.unique(np.concatenate(places)))
    layout = row.layout.to(device)
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
            shared_layout=layout,
        )
    pooled = [hidden[torch.from_numpy(own).to(device)].mean(0) for own in places]
    return _result(model, torch.stack(pooled), direction)


def _noise_problem(shared: _Result, separate: _Result, exact: _Result) -> tuple[str | None, bool]:
    """Compares errors: those of a wrong mask are far larger than rounding, which both ways have alike."""
    rows = [[_relative(one, other) for one, other in zip(way.hidden, exact.hidden)] for way in (shared, separate)]
    grads = [dict(_gradient_errors(way, exact)) for way in (shared, separate)]
    parameters = [[errors[name] for name in exact.grads] for errors in grads]
    for name, (found, usual) in (("hidden states", rows), ("gradients", parameters)):
        times = np.maximum(found, _SMALLEST_ERROR) / np.maximum(usual, _SMALLEST_ERROR)
        average = float(np.exp(np.log(times).mean()))
        if not (average <= NOISE and times.max() <= SINGLE_NOISE):
            problem = f"in a trial, {name} were {average:.1f} times (one {times.max():.1f} times) as far from fp32"
            return f"{problem} as those of texts computed one by one", average <= NOISE
    return None, False


def _gradient_errors(found: _Result, expected: _Result) -> Iterator[tuple[str, float]]:
    # Some gradients are zero but for rounding (a bias on keys, say): those are measured against the largest.
    floor = 1e-3 * max(float(grad.norm()) for grad in expected.grads.values())
    for name, grad in expected.grads.items():
        yield name, _relative(found.grads[name], grad, floor)


def _hidden(model: PreTrainedModel, ids: np.ndarray, **arguments: object) -> Tensor:
    device = next(model.parameters()).device
    input_ids = torch.from_numpy(ids.astype(np.int64))[None].to(device)
    return model(input_ids=input_ids, use_cache=False, **arguments).last_hidden_state[0]


def _dropouts(model: nn.Module) -> list[nn.Dropout]:
    return [module for module in model.modules() if isinstance(module, nn.Dropout)]


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
    return float((found.float() - expected.float()).norm()) / max(float(expected.norm()), floor, 1e-12)
