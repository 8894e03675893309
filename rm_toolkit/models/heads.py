"""The reward head of a stock classifier: its name, the modules before it, and the initialization of a new one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from ..errors import InputError
from .lm_head import is_causal_lm
from .load_errors import incomplete_error


HEAD_NAMES = ("score", "classifier", "classifier.out_proj")
# `classifier_pooling` that reads the first token, where it is not "cls".
FIRST_TOKEN = {"eurobert": "bos"}


def head_name(classifier: PreTrainedModel) -> str:
    """
    Returns the name of the linear layer that gives the reward: `score` of decoders, `classifier` (RoBERTa and its kin:
    `classifier.out_proj`) of encoders.

    Raises:
        `InputError`: if the architecture has none of them.
    """
    for name in HEAD_NAMES:
        if _is_linear(_submodule(classifier, name)):
            return name
    raise InputError(
        f"{type(classifier).__name__} has no single linear layer `score` or `classifier` to read a reward from; use "
        "a causal LM or a BERT-like encoder."
    )


def reward_head(classifier: PreTrainedModel) -> nn.Module:
    """
    Returns the linear layer that gives the reward (inside a PEFT model: the trained copy's wrapper).

    Raises:
        `InputError`: if the architecture has none.
    """
    return _submodule(classifier, head_name(classifier))


def is_encoder(classifier: PreTrainedModel) -> bool:
    """Whether the model reads a text in both directions, so that its stock class does its own pooling (`cls`)."""
    return head_name(classifier) != "score" and not is_causal_lm(classifier.config)


def reads_like_stock(classifier: PreTrainedModel, pooling_type: str) -> bool:
    """
    Whether the model's stock class gives the same reward as this pooling.

    For an encoder only `cls` does. For a decoder `last` and `eos` do, if only the head follows the backbone.
    """
    if is_encoder(classifier):
        return pooling_type == "cls"
    return pooling_type in ("last", "eos") and not modules_before_head(classifier)


def modules_before_head(classifier: PreTrainedModel) -> list[str]:
    """Names of the modules with weights between backbone and head, such as BERT's pooler and ModernBERT's `head`."""
    prefix, head = classifier.base_model_prefix, head_name(classifier)
    names = [
        name
        for name, child in classifier.named_children()
        if name != prefix and name != head and any(True for _ in child.parameters())
    ]
    if isinstance(getattr(getattr(classifier, prefix), "pooler", None), nn.Module):
        names.append(f"{prefix}.pooler")
    return names


def check_pooling(classifier: PreTrainedModel, pooling_type: str) -> None:
    """
    Refuses `cls` pooling for a decoder.

    Raises:
        `InputError`: naming what to use instead.
    """
    if pooling_type == "cls" and not is_encoder(classifier):
        raise InputError(
            f"`pooling_type` is 'cls', but {type(classifier).__name__} is a decoder, whose first token does not see the "
            "others. Use 'last' or 'eos' (or 'average' or 'max', which load through rm_toolkit only)."
        )


def pool_first_token(classifier: PreTrainedModel) -> None:
    """
    Makes a stock class that could also pool the mean (ModernBERT, EuroBERT) read the first token, here and when saved.
    """
    for holder in (classifier.config, classifier):  # some keep a copy of it
        if hasattr(holder, "classifier_pooling"):
            holder.classifier_pooling = FIRST_TOKEN.get(classifier.config.model_type, "cls")


def max_positions(classifier: PreTrainedModel) -> int | None:
    """Returns how many tokens fit into a learned position embedding; `None` if positions are computed (RoPE)."""
    for name, module in classifier.named_modules():
        if name.split(".")[-1] in ("position_embeddings", "wpe", "embed_positions") and hasattr(module, "weight"):
            padding = module.padding_idx  # RoBERTa counts positions after the padding's
            offset = getattr(module, "offset", 0) if padding is None else padding + 1
            return module.num_embeddings - offset
    return None


def check_max_length(classifier: PreTrainedModel, max_length: int) -> None:
    """
    Refuses a `max_length` above the model's learned positions.

    Raises:
        `InputError`: naming the largest `max_length`.
    """
    positions = max_positions(classifier)
    if positions is not None and max_length > positions:
        raise InputError(
            f"`max_length` is {max_length}, but {type(classifier).__name__} has positions for {positions} tokens. Set "
            f"`max_length: {positions}` or less; longer texts are cut at their beginning."
        )


def select_trainable(classifier: PreTrainedModel, pooling_type: str, *, adapted: bool) -> None:
    """
    Freezes parameters that the forward pass does not use, so that no engine waits for their gradients, and the head's
    bias, which no preference can change.

    Args:
        classifier (`PreTrainedModel`): The stock classifier, also inside a PEFT model.
        pooling_type (`str`): `cls` uses the modules before the head, the others do not.
        adapted (`bool`): Whether it has PEFT adapters: then nothing is unfrozen.
    """
    between = tuple(f"{name}." for name in modules_before_head(classifier))
    head = reward_head(classifier)
    own = {id(parameter) for parameter in head.parameters()}
    for name, parameter in classifier.named_parameters():
        if id(parameter) in own:
            if name.split(".")[-1] == "bias":
                parameter.requires_grad_(False)
        elif name.startswith(between):
            if pooling_type != "cls":
                parameter.requires_grad_(False)
            elif not adapted and parameter.is_floating_point():
                parameter.requires_grad_(True)


def initialize_head(head: nn.Linear, seed: int) -> None:
    """
    Draws the head from N(0, 1 / (hidden_size + 1)), from `seed` alone; a bias is set to zero and frozen.

    References:
        - Initialisation: https://huggingface.co/papers/2009.01325, Appendix B.1
    """
    with gathered(head.parameters()), torch.no_grad():
        if head.weight.numel() > 0:
            generator = torch.Generator().manual_seed(seed)
            values = torch.randn(head.weight.shape, generator=generator) / math.sqrt(head.weight.shape[1] + 1)
            head.weight.copy_(values)
            if head.bias is not None:
                head.bias.zero_()
    if head.bias is not None:
        head.bias.requires_grad_(False)


def check_loaded(
    name: str,
    classifier: PreTrainedModel,
    missing: Iterable[str],
    *,
    require_head: bool,
    pooling_type: str,
    hint: str = "",
) -> bool:
    """
    Checks a loaded checkpoint by the weights that it lacks.

    Args:
        name (`str`): Folder or Hub id.
        classifier (`PreTrainedModel`): The loaded classifier.
        missing (`Iterable[str]`): Names of the weights that its files lack.
        require_head (`bool`): Whether it must have a reward head.
        pooling_type (`str`): Its pooling.
        hint (`str`): What to do with a head under another name, see [`~rm_toolkit.models.foreign_heads.other_head`].

    Returns:
        `bool`: Whether the reward head is fresh.

    Raises:
        `InputError`: if it lacks more than the head, or the head where one is required.
    """
    head, between = head_name(classifier), tuple(f"{name}." for name in modules_before_head(classifier))
    missing = set(missing)
    optional = {key for key in missing if key.startswith((f"{head}.", *between))}
    other = sorted(missing - optional)
    if other:
        raise InputError(incomplete_error(name, other))
    fresh = f"{head}.weight" in missing
    if fresh and require_head:
        raise InputError(
            f"'{name}' has no reward head (`{head}.weight`). This step continues a trained reward model; a fresh head "
            "would be random. Give the output of `accelerate launch recipes/grft.py`, or another reward model; or start "
            f"from a random head on purpose with --allow_new_head true.{hint}"
        )
    if not fresh and pooling_type == "cls" and optional:
        raise InputError(
            f"'{name}' has a reward head but lacks '{sorted(optional)[0]}', which `pooling_type` 'cls' needs. "
            "Restore the file, or train with the pooling that this model was made for."
        )
    return fresh


@contextlib.contextmanager
def gathered(parameters: Iterable[nn.Parameter]):
    """Gathers parameters that DeepSpeed's ZeRO-3 shards; rank 0's changes are kept."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0):
        yield


def _submodule(classifier: nn.Module, name: str) -> nn.Module | None:
    module = classifier
    for part in name.split("."):  # not `get_submodule`: PEFT's wrapper answers for what it wraps
        module = getattr(module, part, None)
        if module is None:
            return None
    return module


def _is_linear(module: nn.Module | None) -> bool:
    wrapped = getattr(module, "original_module", module)
    return isinstance(wrapped, nn.Linear)
