"""The reward model of a recipe without its weights: every tensor has its shape and type, but no memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig
from torch import nn
from torch._subclasses import FakeTensorMode
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedConfig, PreTrainedModel
from trl import get_peft_config, get_quantization_config
from trl.trainer.utils import disable_dropout_in_model

from ...errors import InputError
from ...models.heads import max_positions
from ...models.lm_head import LMHead, is_causal_lm
from ...models.load_errors import weights_error
from ...models.loading import load_classifier_config
from ...models.precision import WEIGHT_DTYPE
from ...models.reward_model import RewardModel
from ...models.settings import RewardModelSettings
from ...models.weight_checks import check_weights


if TYPE_CHECKING:
    from trl import ModelConfig

    from ..config import RewardModelConfig
    from ..recipe import RecipeArguments


def base_config(recipe: RecipeArguments, model: ModelConfig) -> PreTrainedConfig:
    """
    The config of a recipe's base: from its folder or Hub repository, or of the tiny base that the recipe would build.

    Raises:
        `InputError`: if there is neither, or the folder has the weights of another model.
    """
    name = model.model_name_or_path
    if recipe.tiny_base and not Path(name or "", "config.json").exists():
        size = {"vocab_size": 4096, "hidden_size": 64, "num_layers": 2, "num_heads": 4, **recipe.tiny_base}
        return LlamaConfig(
            vocab_size=size["vocab_size"],
            hidden_size=size["hidden_size"],
            intermediate_size=2 * size["hidden_size"],
            num_hidden_layers=size["num_layers"],
            num_attention_heads=size["num_heads"],
            num_key_value_heads=max(1, size["num_heads"] // 2),
            tie_word_embeddings=False,
        )
    if not name:
        raise InputError("`model_name_or_path` is not set; give a folder or a Hub id.")
    config = load_classifier_config(
        name, revision=model.model_revision, trust_remote_code=getattr(model, "trust_remote_code", False)
    )
    if Path(name).is_dir():  # weights on the Hub are not downloaded
        check_weights(name, config)
    return config


def build_skeleton(
    config: PreTrainedConfig,
    training: RewardModelConfig,
    *,
    peft_config: PeftConfig | None = None,
    compute_dtype: torch.dtype | None = None,
) -> RewardModel:
    """
    Builds, on the meta device, the model that [`~rm_toolkit.training.trainer.RewardModelTrainer`] would train.

    Args:
        config (`PreTrainedConfig`): Config of the base.
        training (`RewardModelConfig`): Pooling, LM loss and checkpointing are taken from it.
        peft_config (`PeftConfig`, *optional*): Adds the adapter.
        compute_dtype (`torch.dtype`, *optional*): Compute type of the linear layers of a quantized base.

    Raises:
        `InputError`: if the LM loss is on for a base without a language-modeling head, or no model can be built from
            the config.
    """
    config = copy.deepcopy(config)
    config.num_labels = 1
    config.pad_token_id = config.pad_token_id or 0
    with torch.device("meta"):
        try:
            classifier = AutoModelForSequenceClassification.from_config(config, dtype=WEIGHT_DTYPE)
        except Exception as error:  # each architecture raises its own errors
            raise InputError(weights_error(config.name_or_path, config, error)) from error
        length = min(training.max_length, max_positions(classifier) or training.max_length)
        settings = RewardModelSettings(pooling_type=training.pooling_type, max_length=length)
        model = RewardModel(classifier, settings, lm_head=_lm_head(classifier, training))
        if compute_dtype is not None:
            for module in quantized_modules(model):
                module.to(compute_dtype)
            model.requires_grad_(False)
        if peft_config is not None:
            model.add_adapter(peft_config)
    if training.disable_dropout:
        disable_dropout_in_model(model)
    if training.gradient_checkpointing:
        kwargs = training.gradient_checkpointing_kwargs or {"use_reentrant": False}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    return model.train()


def _lm_head(classifier: PreTrainedModel, training: RewardModelConfig) -> LMHead | None:
    if training.lm_loss_coef <= 0:
        return None
    if not is_causal_lm(classifier.config):
        raise InputError(
            "`lm_loss_coef` is above 0, but the base is an encoder and predicts no next token. Set it to 0."
        )
    embedding = classifier.get_input_embeddings().weight
    tied = bool(getattr(classifier.config.get_text_config(), "tie_word_embeddings", False))
    weight = embedding if tied else nn.Parameter(torch.empty(embedding.shape))
    return LMHead(weight, None, classifier.config, tied=tied)


def materialize(model: RewardModel, mode: FakeTensorMode) -> None:
    """
    Moves a model from the meta device to a fake CPU: operations have a device, but nothing is stored.

    Args:
        model (`RewardModel`): From [`build_skeleton`]; changed in place.
        mode (`FakeTensorMode`): The mode of the later computation.
    """
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            with mode:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
            made[id(tensor)] = empty
        return made[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})


def quantized_modules(model: RewardModel) -> list[nn.Module]:
    """The linear layers of the backbone, which bitsandbytes keeps in 4 (or 8) bits."""
    return [module for module in model.backbone.modules() if isinstance(module, nn.Linear)]


def adapter_and_bits(model: ModelConfig) -> tuple[PeftConfig | None, float | None]:
    """
    The adapter of a recipe, and the bytes per quantized weight.

    With four bits, a scale of four bytes per 64 weights is added (about one byte with double quantization); with eight
    bits, a scale per row.

    Raises:
        `InputError`: for a quantized base without an adapter.
    """
    quantization: Any = get_quantization_config(model)
    if quantization is None:
        return get_peft_config(model), None
    if not model.use_peft:
        raise InputError("the base is quantized, and quantized weights cannot be trained. Pass --use_peft.")
    if not getattr(model, "load_in_4bit", False):
        return get_peft_config(model), 1.0
    return get_peft_config(model), 0.5 + (1 / 64 if model.use_bnb_nested_quant else 4 / 64)
