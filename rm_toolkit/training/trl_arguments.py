"""Arguments of TRL's trainer: used as TRL uses them, or refused with a reason before anything is loaded."""

from __future__ import annotations

import copy
from typing import Any

from datasets import Dataset, IterableDataset

from ..errors import InputError, name_list
from .config import RewardModelConfig


UNUSED = {
    "compute_metrics": "test sets are scored by their distinct texts, so there are no predictions per batch. Leave it "
    "out, and use `trainer.predict(data)` for your own metrics",
    "preprocess_logits_for_metrics": "test sets are scored by their distinct texts, so there are no logits per batch. "
    "Leave it out, and use `trainer.predict(data)` for your own metrics",
    "data_collator": "a step is planned and collated as a whole. Leave it out; convert rows of another form "
    "into pairs or ranked rows with `datasets.Dataset.map`",
    "model_init": "a run trains one model. Pass it as `model`, and create a trainer for each trial of a search",
}  # fmt: skip
OWN_OPTIONS = ("settings", "with_lm_head", "require_head", "seed", "keep_adapter")  # of `RewardModel.from_pretrained`


def settle_arguments(
    model: Any, args: Any, train_dataset: Any, options: dict[str, Any]
) -> tuple[RewardModelConfig, dict[str, Any]]:
    """
    Checks the arguments of [`~rm_toolkit.training.trainer.RewardModelTrainer`], and accepts those of TRL's trainer.

    Args:
        model (`str`, `PreTrainedModel` or `RewardModel`): As given.
        args (`RewardModelConfig`, *optional*): By default one whose output folder is named after the model, as in TRL.
        train_dataset (`Dataset` or `IterableDataset`): As given.
        options (`dict`): The other keywords.

    Returns:
        `tuple`: The configuration, and the remaining keywords.

    Raises:
        `InputError`: for arguments that would have no effect, and for arguments in TRL's order.
    """
    options = dict(options)
    for name, reason in UNUSED.items():
        if options.pop(name, None) is not None:
            raise InputError(f"`{name}` is not used: {reason}.")
    if model is None:
        raise InputError("`model` is None; give a folder, a Hub id, a stock classifier or a `RewardModel`.")
    if args is None:
        name = model if isinstance(model, str) else getattr(model, "name_or_path", "") or type(model).__name__
        args = RewardModelConfig(f"{str(name).rstrip('/').split('/')[-1]}-Reward")
    if not isinstance(args, RewardModelConfig):
        raise InputError(
            f"`args` is a {type(args).__module__.split('.')[0]} {type(args).__name__}; it must be a "
            "`rm_toolkit.RewardModelConfig`, which has the same fields and those of this trainer."
        )
    if not isinstance(train_dataset, (Dataset, IterableDataset)):
        raise InputError(
            f"`train_dataset` is {'None' if train_dataset is None else 'a ' + type(train_dataset).__name__}; it must be a "
            "`datasets.Dataset` or `IterableDataset`, the third argument after model and args. In TRL the third is the data "
            "collator: pass the arguments after `args` by name (`train_dataset=…`); the names are the same in both."
        )
    quantization = options.pop("quantization_config", None)
    if not isinstance(model, str):
        ignored = sorted(set(args.model_init_kwargs or ()) - {"revision"}) + ["quantization_config"] * bool(
            quantization
        )
        if ignored:
            raise InputError(
                f"{name_list(ignored)} would have no effect: the model is already loaded. Load it with these, or "
                f"pass its folder or Hub id."
            )
        return args, options
    args = copy.copy(args)
    args.model_init_kwargs = _loading_options(args, quantization)
    args.trust_remote_code |= bool(args.model_init_kwargs.pop("trust_remote_code", False))
    return args, options


def _loading_options(args: RewardModelConfig, quantization: Any) -> dict[str, Any]:
    """The loading options of a model, as in TRL."""
    init = dict(args.model_init_kwargs or {})
    if "torch_dtype" in init:  # its name in transformers 4
        if "dtype" in init:
            raise InputError("`model_init_kwargs` has both `dtype` and its old name `torch_dtype`. Leave one out.")
        init["dtype"] = init.pop("torch_dtype")
    if init.pop("num_labels", 1) != 1:
        raise InputError("`model_init_kwargs` has a `num_labels` other than 1; a reward model has exactly 1.")
    for name in ("config", "output_loading_info", "use_safetensors", *OWN_OPTIONS):
        if name in init:
            raise InputError(f"`model_init_kwargs` has '{name}', which the trainer chooses itself. Leave it out.")
    if quantization is not None:
        if init.get("quantization_config") is not None:
            raise InputError(
                "`quantization_config` is given twice: as an argument and in `model_init_kwargs`. Leave one out."
            )
        init["quantization_config"] = quantization
    if args.world_size > 1:
        init.pop("device_map", None)  # every process has the whole model, or the engine shards it
    return init
