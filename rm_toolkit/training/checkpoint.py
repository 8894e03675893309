"""How `RewardModelTrainer` saves, resumes and checks; the Trainer's own code knows nothing of heads and settings."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from ..batches.scored_texts import tokenize_texts
from ..errors import InputError
from ..evaluation.metrics import PreferenceMetrics
from ..models.files import (
    ADAPTER_WEIGHTS,
    FINAL_RESULTS_NAME,
    LM_HEAD_FOLDER,
    SAFE_WEIGHTS,
    TRAINING_LOG_NAME,
    weight_files,
)
from ..models.quantization import quantization_of
from ..models.reward_model import RewardModel, quiet_loading
from ..models.saving import check_saved_weights, save_reward_model
from ..models.weight_names import shapes_in_files
from ..output.folders import replace_text
from ..output.written import record_written
from ..scoring.reload_check import TOLERANCE, check_reload, check_texts
from .disk_errors import named_disk_errors


class CheckpointMixin:
    """Saving and loading for [`~rm_toolkit.training.trainer.RewardModelTrainer`]."""

    model: RewardModel

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        output_dir = output_dir or self.args.output_dir
        model = self.accelerator.unwrap_model(self.model)
        # A checkpoint keeps the adapter alone, to resume from; the run's result is the merged model.
        intermediate = Path(output_dir).name.startswith("checkpoint-")
        merge = self.args.merge_adapter
        merge = quantization_of(model) is None if merge is None else merge
        merge = merge and model.is_peft and not intermediate
        # Checkpoints are guarded as a whole.
        with contextlib.nullcontext() if intermediate else named_disk_errors(output_dir):
            save_reward_model(model, output_dir, self.processing_class, state_dict=state_dict, merge=merge)
        check_saved_weights(model, output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_weights(self.accelerator.unwrap_model(model or self.model), resume_from_checkpoint)

    _logs_of_other_weights = 0

    def _load_best_model(self) -> None:
        self._logs_of_other_weights = len(self.state.log_history)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
            return
        load_weights(self.model, self.state.best_model_checkpoint)

    def results(self, step: int | None = None) -> dict[str, dict[str, float]]:
        """
        Metrics of each test set at one step, from the log.

        Args:
            step (`int`, *optional*): Optimizer step; the last evaluated one by default.

        Returns:
            `dict[str, dict[str, float]]`: For each test set (`"eval"` if it has no name): accuracy, first_two_accuracy,
            margin, loss, reward_mean, reward_std, num_pairs, num_ties and num_label_ties. Empty if nothing was evaluated at that step.
        """
        logs = [log for log in self.state.log_history if any(key.endswith("_first_two_accuracy") for key in log)]
        if step is not None:
            logs = [log for log in logs if log["step"] == step]
        if not logs:
            return {}
        keys = [item.name for item in dataclasses.fields(PreferenceMetrics)]
        marker = "first_two_accuracy"
        prefixes = [key.removesuffix(marker) for key in logs[-1] if key.endswith(marker)]
        found = {
            prefix.removeprefix("eval_").removesuffix("_") or "eval": {
                key: logs[-1][prefix + key] for key in keys if prefix + key in logs[-1]
            }
            for prefix in prefixes
        }
        # A log that was read from a checkpoint has its keys in alphabetical order.
        order = list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else []
        return {
            name: found[name]
            for name in [*(name for name in order if name in found), *(name for name in found if name not in order)]
        }

    def evaluated_step(self) -> int | None:
        """Returns the optimizer step of the last evaluation, or `None`; none counts before the best model was loaded."""
        logs = self.state.log_history[self._logs_of_other_weights :]
        steps = [log["step"] for log in logs if any("first_two_accuracy" in key for key in log)]
        return steps[-1] if steps else None

    def save_results(self) -> dict[str, dict[str, dict[str, float]]]:
        """
        Writes `final_eval_results.json`: every test set at the start and at the end of training; and
        `training_log.json`: everything that was logged, for learning curves.
        """
        results = {"start": self.results(step=0), "end": self.results()}
        if self.args.should_save:
            log = {"pairs_per_step": self.pairs_per_step, "log_history": self.state.log_history}
            record_written(self.args.output_dir, [FINAL_RESULTS_NAME, TRAINING_LOG_NAME])
            _write_json(results, Path(self.args.output_dir, FINAL_RESULTS_NAME))
            _write_json(log, Path(self.args.output_dir, TRAINING_LOG_NAME))
        return results

    def reload_check(self, folder: str | None = None) -> int:
        """
        Opens the saved folder in a fresh process and compares rewards of raw texts, one of them over-long.

        Returns:
            `int`: Number of texts compared.

        Raises:
            `InputError`: if a reward differs by more than 1e-5 (fp32 on a CPU; 1e-3 in fp32 elsewhere, 2e-2
                under autocast).
        """
        texts = check_texts(self.sample_texts, self.args.max_length)
        data, numbers = tokenize_texts(
            texts,
            self.processing_class,
            max_length=self.args.max_length,
            data_format=self.args.data_format,
            name="reload check",
        )
        rewards = self.compute_rewards(data)[numbers].tolist()
        if self.args.should_save:
            raw = [p + t for p, t in texts]
            # The fresh process computes in fp32 on a CPU: the same kernels, those of a GPU, or half precision here.
            tolerance = TOLERANCE if self.args.device.type == "cpu" else 1e-3
            tolerance = 2e-2 if self.args.autocast else tolerance
            check_reload(folder or self.args.output_dir, raw, rewards, tolerance=tolerance)
        self.accelerator.wait_for_everyone()
        return len(texts)


def _write_json(values: Any, path: Path) -> None:
    replace_text(path, json.dumps(_nan_to_null(values), indent=2) + "\n")


def _nan_to_null(value: Any) -> Any:
    """JSON has no NaN: a metric with nothing to count is null."""
    if isinstance(value, dict):
        return {key: _nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_to_null(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def load_weights(model: RewardModel, folder: str) -> None:
    """
    Loads the weights of a checkpoint into a model of the same structure: classifier or adapter, and LM head.

    Raises:
        `InputError`: if the checkpoint has no weights, or they are not those of this model.
    """
    files = weight_files(folder)
    adapter = Path(folder, ADAPTER_WEIGHTS)
    if model.is_peft and adapter.exists():
        _load_adapter_weights(model, folder, load_file(adapter))
    elif adapter.exists():
        raise InputError(f"{folder} is a checkpoint of a LoRA run. Resume with the same flags (--use_peft …) as it.")
    elif files:
        state = {key: value for path in files for key, value in load_file(path).items()}
        expected = model.base_classifier.state_dict()
        if shapes_in_files(model.base_classifier, expected).keys() != expected.keys():
            state = _translated_weights(model, folder)  # the files have other names than the model
        _check_same_model(folder, state, expected)
        model.base_classifier.load_state_dict(state, strict=False)
    else:
        raise InputError(f"{folder} holds no weights (`*.safetensors`) to resume from.")
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
    shared = {expected[key].data_ptr() for key in found if key in expected}  # saved once, under one of their names
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
        raise InputError(f"{folder} is a checkpoint of another model: {problem}. Resume from this run's own.")
