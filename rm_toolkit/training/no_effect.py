"""Settings of transformers and TRL that would have no effect here: refused with a reason if they are set."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from transformers.trainer_pt_utils import AcceleratorConfig
from trl import ModelConfig

from ..errors import InputError, name_list


logger = logging.getLogger(__name__)

_NO_BATCHES = "test sets are scored by their distinct texts, so there are no predictions per batch"
_PLANNED = "every step is planned as a whole, see `group_by_prompt` and `data_seed`"
_ALWAYS_SAVED = "a run always writes a checkpoint on SIGTERM"
_DO = "a recipe trains on `train_datasets` and evaluates `eval_datasets`, as `eval_strategy` says"

# Why each setting of the trainer has no effect. Left at its default, it is not reported.
OF_TRAINING = {
    "accelerator_config": "steps are planned and loaded by the trainer, not by accelerate",
    "batch_eval_metrics": _NO_BATCHES,
    "bf16_full_eval": "test sets are scored in the precision of training, so that all numbers are for one model",
    "dataloader_drop_last": "the last step of an epoch has the remaining pairs, and is divided by their number",
    "dataloader_in_order": _PLANNED,
    "debug": "a loss or gradient that is not finite always ends the run and names its row",
    "do_eval": _DO,
    "do_predict": _DO,
    "do_train": _DO,
    "enable_jit_checkpoint": _ALWAYS_SAVED,
    "eval_accumulation_steps": _NO_BATCHES,
    "eval_do_concat_batches": _NO_BATCHES,
    "eval_use_gather_object": _NO_BATCHES,
    "fp16_full_eval": "test sets are scored in the precision of training, so that all numbers are for one model",
    "hub_always_push": "the result is uploaded once, at the end",
    "include_for_metrics": _NO_BATCHES,
    "include_num_input_tokens_seen": "a prompt that pairs share is computed once, so batches do not give the number "
    "of tokens",
    "label_names": "rows have the columns of TRL's preference data; other names are mapped by a dataset's SPEC",
    "label_smoothing_factor": "two rewards are compared, so there is no label to smooth",
    "length_column_name": _PLANNED,
    "parallelism_config": "tensor, context and sequence parallelism are not supported; use FSDP 2 or DeepSpeed ZeRO",
    "prediction_loss_only": _NO_BATCHES,
    "remove_unused_columns": "columns that are not read are always ignored",
    "train_sampling_strategy": _PLANNED,
}

OF_ADAPTERS = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save",
    "lora_task_type", "use_rslora", "use_dora",
)  # fmt: skip
OF_4_BITS = ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage")
TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS")  # TRL's default, and the type of a reward model's adapter


def values_beside_default(config: Any, names: Any) -> dict[str, Any]:
    """
    Returns the fields of a dataclass, among some names, whose value differs from the default.

    Args:
        config (dataclass instance): Settings as given.
        names (iterable of `str`): Fields to check.
    """
    found = {}
    for field in dataclasses.fields(config):
        if field.name not in names:
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = getattr(config, field.name)
        if isinstance(value, AcceleratorConfig):  # as transformers stores it
            value = None if value == AcceleratorConfig() else value
        if value is False and default == "no":  # as YAML reads it
            continue
        alike = str(getattr(value, "value", value)) == str(getattr(default, "value", default))
        if not alike and (value or default):
            found[field.name] = value
    return found


def refuse_without_effect(config: Any) -> None:
    """
    Refuses settings of the trainer that would have no effect; called before transformers reads them.

    Args:
        config (`RewardModelConfig`): As given.

    Raises:
        `InputError`: naming the first of them and the reason.
    """
    for name, value in values_beside_default(config, OF_TRAINING).items():
        if name == "do_eval" and str(getattr(config.eval_strategy, "value", config.eval_strategy)) != "no":
            continue  # as transformers sets it in that case
        raise InputError(f"`{name}` is {value!r}, which would have no effect: {OF_TRAINING[name]}. Leave it out.")


def check_model_flags(model: ModelConfig, training: Any) -> None:
    """
    Refuses flags of TRL that would have no effect with the other flags.

    Args:
        model (`ModelConfig`): As given.
        training (`TrainingArguments`): The other settings: of a reward model, or of its base.

    Raises:
        `InputError`: naming them and what to add.
    """
    if not model.use_peft and (found := values_beside_default(model, OF_ADAPTERS)):
        raise InputError(
            f"{name_list(found)} would have no effect without an adapter. Add `use_peft: true`, or leave them out."
        )
    if not model.load_in_4bit and (found := values_beside_default(model, OF_4_BITS)):
        raise InputError(
            f"{name_list(found)} would have no effect without `load_in_4bit: true` (and `use_peft: true`). Add it, or "
            "leave them out."
        )
    if not hasattr(training, "pooling_type"):  # TRL's trainer for base LMs reads the others
        return
    if "lora_dropout" in values_beside_default(model, OF_ADAPTERS) and model.lora_dropout and training.disable_dropout:
        # Not refused, so that runs of earlier versions with it can be resumed.
        logger.warning(
            "`lora_dropout` is %s, which has no effect: `disable_dropout`, TRL's default for reward models, turns all dropout "
            "off. Add `disable_dropout: false`, or leave it out.",
            model.lora_dropout,
        )
    if model.lora_task_type not in TASK_TYPES:
        raise InputError(
            f"`lora_task_type` is '{model.lora_task_type}'; an adapter of a reward model is 'SEQ_CLS', because the head "
            "is trained and saved with it. Leave it out."
        )
    if model.bnb_4bit_quant_storage is not None:
        raise InputError(
            f"`bnb_4bit_quant_storage` is '{model.bnb_4bit_quant_storage}', which would have no effect: 4-bit weights are "
            "stored as bitsandbytes does by default. Leave it out."
        )
