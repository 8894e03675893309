"""Chooses how micro-batches are laid out: `plain`, or `shared` where that is exact and costs less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ...batches.collator import PreferenceCollator
from ...batches.micro_batch import MicroBatch
from ...batches.tokenization import TokenizedPreferences
from ...errors import InputError
from ..reward_model import RewardModel
from .exactness import Trial, try_sharing


logger = logging.get_logger(__name__)

# The shared layout must save at least this share of the cost: differences below are within what the model misjudges.
MIN_SAVING = 0.05
SHARING_POOLINGS = ("last", "eos", "average", "max")  # `cls` reads encoders by their own head


class ChosenLayout(NamedTuple):
    """
    How micro-batches are laid out in memory.

    Args:
        name (`str`): `"plain"` or `"shared"`.
        attention (`str`): What computes attention, for a message.
    """

    name: str
    attention: str


def choose_layout(
    wanted: str,
    model: RewardModel,
    datasets: Sequence[TokenizedPreferences],
    collator: PreferenceCollator,
    *,
    pairs_per_batch: int,
    device: torch.device,
    autocast: torch.dtype | None = None,
    prepare: Callable[[PreTrainedModel], None] | None = None,
) -> ChosenLayout:
    """
    Chooses a layout, prepares the model for it, and logs the reason in one line.

    Args:
        wanted (`str`): `"auto"`, `"plain"` or `"shared"`.
        model (`RewardModel`): The model.
        datasets (`Sequence[TokenizedPreferences]`): What will be computed; the first one with pairs is measured.
        collator (`PreferenceCollator`): As it would pad.
        pairs_per_batch (`int`): Pairs of a micro-batch.
        device (`torch.device`): Where the model will compute.
        autocast (`torch.dtype`, *optional*): What it will compute in, where that is not the type of its weights.
        prepare (`Callable`, *optional*): Puts the run's own kernels into the trial's backbone.

    Returns:
        `ChosenLayout`: With the name `"plain"` or `"shared"`.

    Raises:
        `InputError`: if `"shared"` is wanted and not exact for this model.
    """
    stock = model.config._attn_implementation.removeprefix("rm_toolkit_")
    plain = ChosenLayout("plain", f"{stock} of transformers")
    if wanted == "plain":
        return plain
    data = next((data for data in datasets if len(data)), None)
    ratio = None
    if wanted == "auto" and data is not None:
        ratio = cost_ratio(model.config, data, collator, pairs_per_batch)
        if ratio > 1 - MIN_SAVING:
            logger.info(f"batch_layout: plain (the shared layout would cost {ratio:.2f} times as much)")
            return plain
    trial = try_layout(model, device, autocast, prepare)
    # All processes plan the same steps, so what one of them found counts for all.
    problem = next((found for found in gather_object([trial.problem]) if found is not None), None)
    if problem is None:
        model.enable_shared_layout()
        estimate = "" if ratio is None else f" (about {ratio:.2f} of the cost of padded rows)"
        attention = " and ".join(trial.kernels)
        logger.info(f"batch_layout: shared{estimate}, attention by {attention}")
        return ChosenLayout("shared", attention)
    if wanted == "shared":
        raise InputError(
            f"`batch_layout` is 'shared', but that is not exact for this model: {problem}. Set `batch_layout: auto`."
        )
    # That another pooling rules it out is known beforehand; that a trial of exactness failed is news.
    log = logger.warning if model.settings.pooling_type in SHARING_POOLINGS else logger.info
    log(f"batch_layout: plain, because the shared layout is not exact for this model: {problem}")
    return plain


def share_if_exact(model: RewardModel, device: torch.device, autocast: torch.dtype | None = None) -> bool:
    """Prepares a reward model for the shared layout if that is exact, and says whether it is. Args as of [`try_layout`]."""
    exact = try_layout(model, device, autocast).problem is None
    if exact:
        model.enable_shared_layout()
    return exact


def expected_layout(wanted: str, model: RewardModel) -> str:
    """
    Foresees what [`choose_layout`] will decide, without data and without a trial: for a plan.

    Args:
        wanted (`str`): `"auto"`, `"plain"` or `"shared"`.
        model (`RewardModel`): The model; its weights are not read.
    """
    if wanted != "auto":
        return wanted
    config = model.config
    encoder = config.architectures is None and not getattr(config, "is_decoder", True)
    shared = config._attn_implementation == "sdpa" and model.settings.pooling_type in SHARING_POOLINGS and not encoder
    return "shared" if shared else "plain"


def try_layout(
    model: RewardModel,
    device: torch.device,
    autocast: torch.dtype | None = None,
    prepare: Callable[[PreTrainedModel], None] | None = None,
) -> Trial:
    """
    Tries the shared layout on a small model of the same config, see
    [`~rm_toolkit.models.shared_prompts.exactness.try_sharing`].

    Args:
        model (`RewardModel`): The model.
        device (`torch.device`): Where it will compute.
        autocast (`torch.dtype`, *optional*): What it will compute in, where that is not the type of its weights.
        prepare (`Callable`, *optional*): Puts the run's own kernels into the trial's backbone.
    """
    pooling = model.settings.pooling_type
    if pooling not in SHARING_POOLINGS:
        return Trial(f"`pooling_type` is '{pooling}'")
    whole = model.settings.pools_all
    return try_sharing(model.backbone, model.settings.max_length, device, autocast, prepare, every_token=whole)


def cost_ratio(
    config: PreTrainedConfig, data: TokenizedPreferences, collator: PreferenceCollator, pairs_per_batch: int
) -> float:
    """
    Estimates the cost of the shared layout relative to the plain one from the lengths of the first few micro-batches.

    Args:
        config (`PreTrainedConfig`): Of the model.
        data (`TokenizedPreferences`): The pairs.
        collator (`PreferenceCollator`): As it would pad.
        pairs_per_batch (`int`): Pairs of a micro-batch.
    """
    costs = {"plain": 0.0, "shared": 0.0}
    step = max(pairs_per_batch, len(data) // 16)
    for begin in range(0, len(data), step):
        pairs = np.arange(begin, min(begin + pairs_per_batch, len(data)))
        sequences = np.unique(np.concatenate([data.better[pairs], data.worse[pairs]]))
        for layout in costs:
            maker = PreferenceCollator(
                collator.pad_token_id, collator.padding_side, collator.pad_to_multiple_of, layout=layout
            )
            costs[layout] += batch_cost(config, maker.sequences(data, sequences))
    return costs["shared"] / costs["plain"]


def batch_cost(config: PreTrainedConfig, batch: MicroBatch) -> float:
    """
    Cost of a micro-batch in units of one token's pass through the linear layers.

    Attention adds its products; each call of it adds about one token (measured on a CPU with 10M to 30M parameters;
    larger models and GPUs, where a row is one call, pay less).
    """
    attention = _attention_cost(config)
    if batch.layout is None:
        rows, width = batch.input_ids.shape
        return rows * width * (1 + attention * width) + 1
    calls = len(batch.layout.segments) + len(batch.layout.continued())
    return batch.num_tokens + attention * batch.layout.attention_pairs() + calls


def _attention_cost(config: PreTrainedConfig) -> float:
    """Cost of one query and one key, scores and weighted values, in the units of [`batch_cost`]."""
    text = config.get_text_config()
    hidden = text.hidden_size
    inner = getattr(text, "intermediate_size", None)
    linear = 4 * hidden**2 + 3 * hidden * (inner if isinstance(inner, int) else 4 * hidden)
    return 2 * hidden / linear


def sharing_pays(config: PreTrainedConfig, data: TokenizedPreferences, batches: Sequence[np.ndarray]) -> bool:
    """
    Whether the shared layout costs no more than rows of one sequence each would without any padding.

    Args:
        config (`PreTrainedConfig`): Of the model.
        data (`TokenizedPreferences`): The sequences.
        batches (`Sequence[np.ndarray]`): As the shared layout would compute them; some of them are measured.
    """
    maker = PreferenceCollator(0, layout="shared")
    attention = _attention_cost(config)
    shared = plain = 0.0
    for batch in batches[:: max(1, len(batches) // 8)]:
        lengths = data.lengths[batch]
        plain += float((lengths * (1 + attention * lengths)).sum()) + 1
        shared += batch_cost(config, maker.sequences(data, batch))
    return shared <= plain
