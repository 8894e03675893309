"""Reward heads saved by other programs: with a bias that the stock class lacks, or under another name."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from ..errors import InputError
from .folder_checks import file_of_tensor
from .heads import gathered, head_name, reward_head


MOST_KEYS = 64  # unread weights to check


def refuse_unread_bias(name: str, classifier: PreTrainedModel, unread: Iterable[str], revision: str | None) -> None:
    """
    Refuses a checkpoint whose head has a bias that its stock class lacks.

    Args:
        name (`str`): Folder or Hub id.
        classifier (`PreTrainedModel`): As loaded from it.
        unread (`Iterable[str]`): Names of the weights in its files that were not used.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        `InputError`: unless the bias is 0.
    """
    key = f"{head_name(classifier)}.bias"
    if key in unread and (path := file_of_tensor(name, key, revision)) is not None:
        with safe_open(path, framework="pt") as file:
            _refuse_unless_zero(f"'{name}'", classifier, file.get_tensor(key))


def refuse_unsaved_bias(classifier: PreTrainedModel) -> None:
    """
    Refuses a model in memory whose head was replaced by one with a bias: the saved folder would load without it.

    Raises:
        `InputError`: unless the bias is 0, or the stock class has one too.
    """
    head = reward_head(classifier)
    bias = getattr(getattr(head, "original_module", head), "bias", None)
    if bias is None:
        return
    base = classifier.get_base_model() if hasattr(classifier, "get_base_model") else classifier
    with torch.device("meta"):
        stock: nn.Linear = reward_head(type(base)(base.config))
    if stock.bias is None:
        with gathered([bias]):
            _refuse_unless_zero("the model", classifier, bias.detach())


def _refuse_unless_zero(what: str, classifier: PreTrainedModel, bias: torch.Tensor) -> None:
    if bias.abs().max() == 0:
        return
    head = head_name(classifier)
    raise InputError(
        f"{what} has a reward head with a bias (`{head}.bias` is {bias.flatten()[0].item():.6g}), which "
        f"{type(classifier).__name__} lacks: other programs would ignore it, and all rewards would be shifted "
        f"by it. The order of texts does not depend on it: remove `{head}.bias`, and expect rewards without it."
    )


def other_head(name: str, classifier: PreTrainedModel, unread: Iterable[str], revision: str | None) -> str:
    """
    Returns what to do with a head that the checkpoint has under another name, such as a value head of TRL; empty if
    there is none.

    Args:
        name, classifier, unread, revision: As in [`refuse_unread_bias`].
    """
    shape = list(reward_head(classifier).weight.shape)
    for key in sorted(key for key in unread if key.endswith(".weight"))[:MOST_KEYS]:
        path = file_of_tensor(name, key, revision)
        if path is None:
            continue
        with safe_open(path, framework="pt") as file:
            if list(file.get_slice(key).get_shape()) != shape:
                continue
        target = f"{os.path.basename(name.rstrip('/'))}-reward"
        command = (
            "import transformers as t; from safetensors.torch import load_file; "
            f"m = t.AutoModelForSequenceClassification.from_pretrained({name!r}, num_labels=1); "
            f"m.{head_name(classifier)}.weight.data.copy_(load_file({path!r})[{key!r}]); "
            f"m.save_pretrained({target!r}); t.AutoTokenizer.from_pretrained({name!r}).save_pretrained({target!r})"
        )
        return (
            f" It has '{key}' of shape {shape}, a head under another name (such as a value head). If that one gives the "
            f'rewards, save it as the stock head, then name {target}: python -c "{command}"'
        )
    return ""
