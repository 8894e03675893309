"""Checks a PEFT model that a caller has made, and makes its reward head trainable."""

from __future__ import annotations

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from ..errors import InputError, name_list
from .adapter_targets import check_adapter_kind
from .adapters import attach_adapter, quiet_peft
from .heads import head_name


def with_trained_head(model: PeftModel, pooling_type: str, seed: int = 42) -> PeftModel:
    """
    Returns the PEFT model, with its reward head trained and saved too.

    PEFT trains the head only if the task type is `SEQ_CLS` or `modules_to_save` names it, and trains nothing of an
    adapter that was loaded for inference: such an adapter is removed from its base and added again, with the same
    weights.

    Args:
        model (`PeftModel`): A stock classifier with one adapter. Not usable afterwards.
        pooling_type (`str`): As in [`~rm_toolkit.models.adapters.attach_adapter`].
        seed (`int`): Seed of the weights that the adapter lacks.

    Raises:
        `InputError`: for several adapters, and for types that cannot be trained here.
    """
    names = list(model.peft_config)
    if len(names) != 1:
        raise InputError(
            f"the model has {len(names)} adapters ({name_list(names)}); only one can be trained. Remove the others "
            "(`model.delete_adapter(NAME)`), or merge them into the base (`model.merge_and_unload()`)."
        )
    config = model.peft_config[names[0]]
    check_adapter_kind(config)
    head = head_name(model.get_base_model()).split(".")[-1]
    saved = {name.split(".")[-1] for name in [*(config.modules_to_save or []), *(model.modules_to_save or [])]}
    if head in saved and not config.inference_mode and names == ["default"]:
        return model
    with quiet_peft():
        weights = get_peft_model_state_dict(model, adapter_name=names[0], save_embedding_layers=False)
        weights = {name: value.detach().clone() for name, value in weights.items()}
        again = attach_adapter(model.unload(), config, pooling_type, seed)
        fresh = get_peft_model_state_dict(again, save_embedding_layers=False)
        set_peft_model_state_dict(again, fresh | weights)
    return again
