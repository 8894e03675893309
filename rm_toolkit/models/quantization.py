"""QLoRA: the base in 4 bits by bitsandbytes, the adapter and the reward head in fp32 on top of it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from ..errors import InputError


if TYPE_CHECKING:
    from .parts import RewardModelParts

# The modules on top of the backbone are trained and read in fp32: heads, and the modules of encoders before them.
IN_FULL_PRECISION = ["score", "classifier", "pooler", "head", "lm_head"]
SAVED = ("load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")


def make_config(values: dict[str, Any], dtype: torch.dtype = torch.float32) -> BitsAndBytesConfig:
    """
    A bitsandbytes config that leaves the modules on top of the backbone in full precision.

    Args:
        values (`dict[str, Any]`): Those of `SAVED`, as a saved adapter records them.
        dtype (`torch.dtype`): Compute type of products.

    Raises:
        `InputError`: if bitsandbytes is not installed.
    """
    check_installed()
    return BitsAndBytesConfig(**values, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=IN_FULL_PRECISION)


def check_installed() -> None:
    """
    Raises:
        `InputError`: if bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            'a base in 4 bits needs bitsandbytes, which is not installed: pip install -c constraints.txt -e ".[qlora]"'
        )


def keep_unpacked(classifier: PreTrainedModel) -> None:
    """
    Keeps the 4-bit weights as loaded. On a CPU with AVX512-BF16, evaluation would repack them for kernels that compute
    in bf16, so that rewards of evaluation and training would differ.
    """
    for module in classifier.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantization_of(model: RewardModelParts) -> dict[str, Any] | None:
    """What to record with an adapter on a 4-bit base; `None` for other bases."""
    config = getattr(model.base_classifier.config, "quantization_config", None)
    if config is None or not getattr(model.base_classifier, "is_loaded_in_4bit", False):
        return None
    values = config if isinstance(config, dict) else config.to_dict()
    return {name: values[name] for name in SAVED}


def adapter_alone_notice(model: RewardModelParts, folder: str) -> str:
    """What a run prints at its end about the folder of an adapter on a 4-bit base."""
    base = model.classifier.peft_config["default"].base_model_name_or_path
    return (
        f"{folder} has only the adapter and the reward head, for '{base}' in 4 bits: `RewardScorer` and the recipes "
        "load it that way. On the base in full precision its rewards differ. `--merge_adapter true` saves a merged "
        "stock model "
        "with the rewards of training instead, in fp32, including the base's rounding to 4 bits."
    )
