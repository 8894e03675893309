"""Checks that the weights of a model can be those that its config describes, before anything is built from them."""

from __future__ import annotations

import math

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from ..errors import InputError
from ..output.json_files import REMEDY
from .files import CONFIG_NAME
from .folder_checks import check_floating, place_of, weight_headers


# A reward head, a pooler and rows of added tokens are at most this share of a model.
MOST_MISSING, FEW_VALUES, FEW_TENSORS = 2, 50_000_000, 64


def check_weights(name: str, config: PreTrainedConfig, revision: str | None = None) -> None:
    """
    Refuses weights that are damaged, are not floating-point numbers, or are far fewer than the config describes.

    Missing weights are allocated and initialized at loading: the config of another model could use all memory before
    any error is reported.

    Args:
        name (`str`): Folder or Hub id.
        config (`PreTrainedConfig`): Its config.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        `InputError`: naming the file and the tensor or numbers that are wrong.
    """
    headers = weight_headers(name, revision)
    if not headers or getattr(config, "quantization_config", None) is not None:  # packed weights are integers
        return
    check_floating(headers, name)
    held = sum(math.prod(shape) for _, shape in headers.values())
    described = _sizes_of(config)
    if described is None:
        return
    values, tensors = sum(described), len(described)
    if values > MOST_MISSING * held + FEW_VALUES or tensors > MOST_MISSING * len(headers) + FEW_TENSORS:
        raise InputError(
            f"{place_of(name, CONFIG_NAME, revision)} describes a model of {values:,} values in {tensors:,} tensors "
            f"({_said_sizes(config)}), but the weights beside it have {held:,} in {len(headers):,}: they are for different "
            f"models. {REMEDY}"
        )


def _sizes_of(config: PreTrainedConfig) -> list[int] | None:
    """Size of each weight of the classifier that a config describes, built without memory; `None` where it cannot be."""
    known = AutoModelForSequenceClassification._model_mapping
    if type(config) not in known:  # the model's own code
        return None
    model_class = known[type(config)]
    try:
        with torch.device("meta"):
            skeleton = (model_class[0] if isinstance(model_class, tuple) else model_class)(config)
    except Exception:  # reported where the model itself is built
        return None
    return [parameter.numel() for parameter in skeleton.parameters()]


def _said_sizes(config: PreTrainedConfig) -> str:
    """The values that make a model large, under the names that the config gives them."""
    text_config = config.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "head_dim", "num_key_value_heads")
    found = {name: getattr(text_config, name, None) for name in names}
    return ", ".join(f"`{name}` {value:,}" for name, value in found.items() if isinstance(value, int))


def check_head(name: str, classifier: PreTrainedModel) -> None:
    """
    Refuses a reward head that is not finite: every reward would be NaN.

    Args:
        name (`str`): Folder or Hub id.
        classifier (`PreTrainedModel`): As it was loaded from there.
    """
    values = [value for key, value in classifier.named_parameters() if {"score", "classifier"} & set(key.split("."))]
    with torch.no_grad():
        if any(not bool(torch.isfinite(value).all()) for value in values if value.device.type != "meta"):
            raise InputError(
                f"'{name}': the reward head in its safetensors has values that are not finite (NaN or inf). {REMEDY}"
            )
