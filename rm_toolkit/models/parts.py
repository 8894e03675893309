"""The parts of the reward model, as used by the modules below it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .lm_head import LMHead, LMHeadSource
from .settings import RewardModelSettings


class RewardModelParts(Protocol):
    """The parts of a [`~rm_toolkit.models.reward_model.RewardModel`]."""

    classifier: Any
    settings: RewardModelSettings
    lm_head: LMHead | None
    lm_head_source: LMHeadSource | None
    name_or_path: str
    revision: str | None

    @property
    def base_classifier(self) -> PreTrainedModel:
        """The stock classifier, without a PEFT model around it."""

    @property
    def config(self) -> PreTrainedConfig:
        """Its config."""

    def get_input_embeddings(self) -> nn.Module:
        """Its token embedding."""
