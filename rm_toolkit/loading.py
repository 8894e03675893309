"""Opening a checkpoint as a sequence classifier: its config, its reward head, and what it may lack."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from .errors import InputError


def reward_head(classifier: PreTrainedModel) -> nn.Module:
    """
    Returns the linear layer that gives the reward: `score` of decoders, `classifier` of encoders.

    Raises:
        `InputError`: if the architecture has neither.
    """
    for name in ("score", "classifier"):
        head = getattr(classifier, name, None)
        if isinstance(head, nn.Linear) or hasattr(head, "modules_to_save"):
            return head
    raise InputError(
        f"{type(classifier).__name__} has no single linear layer `score` or `classifier` to read a reward from; take a "
        "causal LM or a BERT-like encoder."
    )


def initialize_head(head: nn.Linear, seed: int) -> None:
    """
    Draws the head from N(0, 1 / (hidden_size + 1)), from `seed` alone; a bias is set to zero and frozen.

    References:
        - Initialisation: https://huggingface.co/papers/2009.01325, Appendix B.1
    """
    gather = contextlib.nullcontext()
    if is_deepspeed_zero3_enabled():
        import deepspeed

        gather = deepspeed.zero.GatheredParameters(list(head.parameters()), modifier_rank=0)
    with gather, torch.no_grad():
        if head.weight.numel() > 0:
            generator = torch.Generator().manual_seed(seed)
            values = torch.randn(head.weight.shape, generator=generator) / math.sqrt(head.weight.shape[1] + 1)
            head.weight.copy_(values)
            if head.bias is not None:
                head.bias.zero_()
    if head.bias is not None:
        head.bias.requires_grad_(False)


def load_config(
    model_name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """
    Loads a model's config, with the reason in words where there is none.

    Raises:
        `InputError`: if the folder or repository does not hold a transformers model.
    """
    try:
        return AutoConfig.from_pretrained(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"'{model_name_or_path}' is no model that transformers can load: {reason} Give a folder with a "
            "`config.json` and safetensors, or a Hub id."
        ) from error


def check_loaded(name: str, missing: set[str], require_head: bool) -> bool:
    """
    Returns whether the reward head is fresh.

    Raises:
        `InputError`: if more than the head is missing, or the head is and `require_head` asks for it.
    """
    head = {key for key in missing if key.split(".")[0] in ("score", "classifier", "head") or ".pooler." in f".{key}"}
    other = sorted(missing - head)
    if other:
        raise InputError(
            f"'{name}' lacks {len(other)} weights of its own architecture (first: '{other[0]}'): it is no complete "
            "language model. Check that the right folder was given and that all its safetensors files are there."
        )
    fresh = any(key.split(".")[0] in ("score", "classifier") for key in missing)
    if fresh and require_head:
        raise InputError(
            f"'{name}' has no reward head (`score.weight`). This step continues a trained reward model; a fresh head "
            "would be random. Give the output of `accelerate launch recipes/grft.py`, or another reward model."
        )
    return fresh


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers while a checkpoint loads: a missing head and an unused LM head are handled by us."""
    verbosity = logging.get_verbosity()
    progress = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
