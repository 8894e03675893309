"""The weights of a run: written so that stock classes can load them, and read back into a model of the same structure."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..models.files import ADAPTER_WEIGHTS, LM_HEAD_FOLDER, SAFE_WEIGHTS, weight_files
from ..models.quantization import quantization_of
from ..models.reward_model import RewardModel, quiet_loading
from ..models.saving import check_saved_weights, save_reward_model
from ..models.weight_names import shapes_in_files
from .disk_errors import named_disk_errors


def save_weights(
    model: RewardModel,
    folder: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    state_dict: dict[str, torch.Tensor] | None = None,
    merge_adapter: bool | None = None,
) -> None:
    """
    Writes the trained model. A checkpoint has only the adapter, to resume from; the run's result is merged.

    Args:
        model (`RewardModel`): Without an engine's wrapper.
        folder (`str`): A checkpoint if it is called `checkpoint-N`, else the result.
        tokenizer (`PreTrainedTokenizerBase`): Saved with it.
        state_dict (`dict`, *optional*): The full weights, if the model itself holds only parts.
        merge_adapter (`bool`, *optional*): Whether to merge the adapter in the result; by default unless the model is
            quantized.
    """
    intermediate = Path(folder).name.startswith("checkpoint-")
    merge = quantization_of(model) is None if merge_adapter is None else merge_adapter
    merge = merge and model.is_peft and not intermediate
    # Checkpoints are written atomically as a whole.
    with contextlib.nullcontext() if intermediate else named_disk_errors(folder):
        save_reward_model(model, folder, tokenizer, state_dict=state_dict, merge=merge)
    check_saved_weights(model, folder, state_dict)


def load_weights(model: RewardModel, folder: str) -> None:
    """
    Loads the weights of a checkpoint into a model of the same structure: classifier or adapter, and LM head.

    Raises:
        `InputError`: if the checkpoint has no weights, or they are for another model.
    """
    files = weight_files(folder)
    adapter = Path(folder, ADAPTER_WEIGHTS)
    if model.is_peft and adapter.exists():
        _load_adapter_weights(model, folder, load_file(adapter))
    elif adapter.exists():
        raise InputError(f"{folder} is a checkpoint of a LoRA run. Resume with the same flags (--use_peft …).")
    elif files:
        state = {key: value for path in files for key, value in load_file(path).items()}
        expected = model.base_classifier.state_dict()
        if shapes_in_files(model.base_classifier, expected).keys() != expected.keys():
            state = _translated_weights(model, folder)  # the files use other weight names than the model
        _check_same_model(folder, state, expected)
        model.base_classifier.load_state_dict(state, strict=False)
    else:
        raise InputError(f"{folder} has no weights (`*.safetensors`) to resume from.")
    head = Path(folder, LM_HEAD_FOLDER, SAFE_WEIGHTS)
    if model.lm_head is not None and head.exists():
        model.lm_head.load_state_dict(load_file(head), strict=False)


def _load_adapter_weights(model: RewardModel, folder: str, found: dict[str, torch.Tensor]) -> None:
    expected = get_peft_model_state_dict(model.classifier, save_embedding_layers=False)
    _check_same_model(folder, found, expected)
    set_peft_model_state_dict(model.classifier, found)


def _translated_weights(model: RewardModel, folder: str) -> dict[str, torch.Tensor]:
    with quiet_loading():
        loaded, info = type(model.base_classifier).from_pretrained(
            folder, dtype=next(model.parameters()).dtype, output_loading_info=True
        )
    return {key: value for key, value in loaded.state_dict().items() if key not in info["missing_keys"]}


def _check_same_model(folder: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    shared = {expected[key].data_ptr() for key in found if key in expected}  # tied weights are saved once
    for key in sorted(found.keys() ^ expected.keys()) + sorted(found.keys() & expected.keys()):
        if key not in expected:
            problem = f"it has '{key}', which this one lacks"
        elif key not in found:
            if expected[key].data_ptr() in shared:
                continue
            problem = f"it lacks '{key}'"
        elif found[key].shape != expected[key].shape:
            problem = f"its '{key}' has the shape {list(found[key].shape)}, this one's {list(expected[key].shape)}"
        else:
            continue
        raise InputError(
            f"{folder} is a checkpoint of another model: {problem}. Resume from a checkpoint of this run."
        )
