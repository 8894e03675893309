"""What transformers calls a weight in a file, where that is not its name in the model (GPT-NeoX, mixtures of experts)."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion


def shapes_in_files(model: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, list[int]]:
    """
    Names and shapes that `save_pretrained` gives some weights; no value is touched.

    Args:
        model (`PreTrainedModel`): The model of these weights.
        weights (`dict[str, torch.Tensor]`): All weights that are stored together, under their names in the model.
    """
    outlines = {name: torch.empty_like(value, device="meta") for name, value in weights.items()}
    return {name: list(value.shape) for name, value in revert_weight_conversion(model, outlines).items()}
