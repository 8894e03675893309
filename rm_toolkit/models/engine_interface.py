"""The interface of transformers that trainers and engines use, forwarded to the classifier inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .lm_head import LMHead


class EngineInterface:
    """
    Part of [`~rm_toolkit.models.reward_model.RewardModel`]. FSDP wraps what `_no_split_modules` names; a tied LM head
    must be in one unit with the embedding, and is therefore returned as the output embedding.
    """

    supports_gradient_checkpointing = True
    base_classifier: PreTrainedModel
    lm_head: LMHead | None
    is_peft: bool

    @property
    def _no_split_modules(self) -> list[str]:
        return sorted(self.base_classifier._no_split_modules or [])

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **kwargs: Any) -> None:
        """Turns on activation checkpointing in the backbone."""
        self.base_classifier.gradient_checkpointing_enable(gradient_checkpointing_kwargs, **kwargs)
        if self.is_peft:
            self.base_classifier.enable_input_require_grads()

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Turns on activation checkpointing in the backbone (the name transformers 5.20 and later call)."""
        self.base_classifier.activation_checkpointing_enable(**kwargs)
        if self.is_peft:
            self.base_classifier.enable_input_require_grads()

    def gradient_checkpointing_disable(self) -> None:
        """Turns activation checkpointing off."""
        self.base_classifier.gradient_checkpointing_disable()

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Adds tags for the model card."""
        self.base_classifier.add_model_tags(tags)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the input embedding."""
        return self.base_classifier.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        """Returns the LM head, if it is loaded."""
        return self.lm_head

    def tie_weights(self) -> None:
        """Lets a tied LM head share the embedding's parameter again, after the weights were replaced."""
        if self.lm_head is not None and self.lm_head.tied:
            self.lm_head.weight = self.get_input_embeddings().weight
