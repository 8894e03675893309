"""TRL's `--load_in_4bit` and related flags -> the quantization config that the base is loaded with."""

from __future__ import annotations

from transformers import BitsAndBytesConfig
from trl import ModelConfig

from ..errors import InputError
from ..models.precision import compute_dtype
from ..models.quantization import check_installed, make_config
from .config import RewardModelConfig
from .engines import launched_with


def quantization_config(model: ModelConfig, training: RewardModelConfig) -> BitsAndBytesConfig | None:
    """
    The quantization that `--load_in_4bit` and TRL's related flags ask for; products are computed in the run's
    precision.

    Args:
        model (`ModelConfig`): TRL's flags.
        training (`RewardModelConfig`): Its precision.

    Raises:
        `InputError`: if it cannot be trained, or not under this engine, or bitsandbytes is not installed.
    """
    if model.load_in_8bit:
        raise InputError("`load_in_8bit` is not supported. Set `load_in_4bit: true`, which takes half the memory.")
    if not model.load_in_4bit:
        return None
    if not model.use_peft:
        raise InputError("`load_in_4bit` is true, but 4-bit weights cannot be trained. Add `use_peft: true`.")
    sharded = training.deepspeed_plugin is not None and training.deepspeed_plugin.zero_stage == 3
    if sharded or launched_with("FSDP"):
        raise InputError(
            "`load_in_4bit` is true under an engine that shards the weights. Use accelerate_configs/single_gpu.yaml; "
            "LoRA without `load_in_4bit` runs under all of them."
        )
    check_installed()
    dtype = compute_dtype(training.autocast)
    return make_config(
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": model.bnb_4bit_quant_type,
            "bnb_4bit_use_double_quant": model.use_bnb_nested_quant,
        },
        dtype,
    )
