"""Checks that a server gives a model's rewards: which options it allows, and its answer to the model's example."""

from __future__ import annotations

import logging
import math
import os
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from ..errors import InputError
from ..models.adapter_files import base_of_adapter
from ..models.loading import load_classifier_config
from .example import read_example
from .serving import find_commands


logger = logging.getLogger(__name__)

# In logits (relative for rewards above 1): tolerance for kernels of another machine, or for half precision.
TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2


class _Scorer(Protocol):
    served: Any

    def score(self, prompts: list[Any], completions: list[Any]) -> list[Any]: ...


def check_served_options(model: Any, **options: Any) -> None:
    """
    Refuses options that have no effect if a server computes.

    Raises:
        `InputError`: naming the option.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise InputError(
            "`endpoint` is given with a loaded model; give its folder or Hub id instead; no weights are read from it."
        )
    for name, value in options.items():
        if value is not None and value != {}:
            remedy = (
                "serve the merged model of each domain" if name == "adapters" else "it is the server's; leave it out"
            )
            raise InputError(f"`{name}` has no effect with `endpoint`, where the server computes; {remedy}.")


def classifier_of(scorer: Any) -> nn.Module:
    """
    Returns the stock classifier of a scorer; if a server computes, one without weights, to count its parameters.

    Args:
        scorer (`RewardScorer`): A scorer.
    """
    if scorer.served is None:
        return scorer.model.base_classifier
    place = scorer.source
    while (base := base_of_adapter(*place)) is not None:
        place = base
    trust = {"trust_remote_code": scorer.trust_remote_code}
    config = load_classifier_config(place[0], revision=place[1], **trust)
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config, **trust)


def check_example(scorer: _Scorer, model: str | os.PathLike, revision: str | None, dtype: torch.dtype) -> None:
    """
    Scores the example of a model and compares it with its known reward; warns if the model has none.

    Args:
        scorer (`RewardScorer`): Connected to the server.
        model (`str` or `os.PathLike`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dtype (`torch.dtype`): Precision of the server.

    Raises:
        `InputError`: if the reward differs.
    """
    example = read_example(model, revision)
    if example is None:
        logger.warning(
            "'%s' has no example with its reward, so it cannot be checked whether %s gives its rewards. `rm-toolkit "
            "serve-command %s --write-example` adds one to a folder.",
            model,
            scorer.served.url,
            model,
        )
        return
    (found,) = scorer.score([example.prompt], [example.completion])
    tolerance = TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE
    if math.isclose(found, example.reward, rel_tol=tolerance, abs_tol=tolerance):
        return
    command = find_commands(f"{model}@{revision}" if revision else str(model))["vllm"]
    raise InputError(
        f"{scorer.served.url} gives the example of '{model}' the reward {found:.6f}, but it should be {example.reward:.6f} "
        f"(tolerance {tolerance:g}): it serves another model, or in another precision. "
        + (f"Start it with: {command.line}" if not command.reason else command.reason)
    )
