"""What a run records about itself in `rm_toolkit.json`: data, settings, versions. The model card is built from it."""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.build import INFO_FILE
from ..data.fingerprints import content_fingerprint
from ..data.prompt_ending import prompt_ending
from ..data.specs import DatasetSpec
from ..errors import InputError
from ..output.json_files import load_json


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from trl import ModelConfig

    from .config import RewardModelConfig
    from .recipe import RecipeArguments

# Settings that change no weight (how a run is shown, saved or loaded), that name a path or a secret of the user's
# machine, or that are elsewhere in the record.
NOT_RECORDED = (
    "output_dir", "model_name_or_path", "run_name", "project", "report_to", "disable_tqdm", "prediction_loss_only",
    "push_to_hub", "resume_from_checkpoint", "allow_changed_settings", "local_rank", "log", "logging", "save", "hub", "trackio", "dataloader",
    "ddp", "fsdp", "deepspeed", "accelerator", "parallelism", "debug", "skip_memory_metrics", "include", "eval",
    "per_device_eval_batch_size", "batch_eval_metrics", "do", "dataset_num_proc", "use_cpu", "use_cache", "label_names",
    "remove_unused_columns", "length_column_name", "enable_jit_checkpoint", "model_init_kwargs", "trust_remote_code",
    "torch_empty_cache_steps", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs",
    "activation_checkpointing", "greater_is_better", "gradient_accumulation_steps", "pairs_per_step",
    "pad_to_multiple_of",
)  # fmt: skip
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft")


def lineage_entry(
    stage: str,
    recipe: RecipeArguments,
    training: RewardModelConfig,
    model: ModelConfig,
    base: str,
    train: dict[str, Dataset],
    evaluation: dict[str, Dataset],
    replay: dict[str, Dataset],
) -> dict[str, Any]:
    """
    Returns the entry that one stage adds to the lineage of its model.

    Args:
        stage (`str`): `"grft"` or `"crft"`.
        recipe, training, model: From [`~rm_toolkit.training.recipe.parse_recipe`].
        base (`str`): Folder or Hub id of the model that it starts from.
        train, evaluation, replay (`dict[str, Dataset]`): Loaded datasets, by name.
    """
    keeping = {}
    if replay:
        keeping = {
            "replay_datasets": describe_datasets(replay, recipe.replay_datasets),
            "general_replay_fraction": training.general_replay_fraction,
            "anchor_coef": training.anchor_coef,
        }
    return {
        "stage": stage,
        "domain": recipe.domain,
        "base": base,
        "base_is_local": os.path.isdir(base),
        "datasets": describe_datasets(train, recipe.train_datasets),
        "prompt_ending": prompt_ending(train),
        "eval_datasets": describe_datasets(evaluation, recipe.eval_datasets or {}),
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.num_train_epochs,
        "max_steps": training.max_steps,
        "pairs_per_step": training.pairs_per_step,
        "lm_loss_coef": training.lm_loss_coef,
        "seed": training.seed,
        "changed_settings": changed_settings(training, model),
        "versions": library_versions(),
        **keeping,
    }


def changed_settings(*groups: Any) -> dict[str, Any]:
    """
    Returns the settings that affect training and differ from their defaults.

    `pairs_per_step` follows from other settings if it is not given, and is recorded separately.

    Args:
        groups: Configuration dataclasses, such as `RewardModelConfig` and `trl.ModelConfig`.
    """
    changed = {}
    for group in groups:
        for item in dataclasses.fields(group):
            if not is_recorded(item.name):
                continue
            default = item.default_factory() if item.default is dataclasses.MISSING else item.default
            value = plain(getattr(group, item.name))
            # None means "decided at the start"; if nothing is decided, the effective value is false.
            differs = value != plain(default) and not (default is None and value is False)
            of_adapter = getattr(group, "use_peft", False) and item.name in ("lora_r", "lora_alpha", "lora_dropout")
            if differs or of_adapter:
                changed[item.name] = value
    return changed


def is_recorded(name: str) -> bool:
    """Whether [`changed_settings`] records a setting that differs from its default."""
    return not any(name == other or name.startswith(f"{other}_") for other in NOT_RECORDED)


def describe_datasets(datasets: dict[str, Dataset], specs: dict[str, Any]) -> dict[str, Any]:
    """
    Returns rows, fingerprint, spec, sources and license of each dataset of a run.

    Args:
        datasets (`dict[str, Dataset]`): Loaded datasets, by name.
        specs (`dict`): The recipe's spec of each.
    """
    described = {}
    for name, dataset in datasets.items():
        spec = specs.get(name)
        parsed = DatasetSpec.parse(spec, name) if spec is not None else None
        path = parsed.path if parsed else None
        described[name] = {
            **_content(dataset, parsed),
            "spec": spec,
            "local": path is None or os.path.exists(path),
            "license": stated_license(path) if path is not None else None,
        }
    return described


def _content(dataset: Dataset | IterableDataset, spec: DatasetSpec | None) -> dict[str, Any]:
    if not hasattr(dataset, "__len__"):  # a stream: not read yet
        return {"rows": None, "streaming": True, "sources": [spec.source] if spec and spec.source else []}
    return {
        "rows": len(dataset),
        "fingerprint": content_fingerprint(dataset),
        "sources": sorted(dataset.unique("source")) if "source" in dataset.column_names else [],
    }


def stated_license(path: str) -> str | None:
    """Returns the license that `build-data --license` wrote into a folder, or `None`."""
    try:
        return load_json(Path(path, INFO_FILE)).get("license")
    except OSError:
        return None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{Path(path, INFO_FILE)}: cannot be read ({error}). Build the folder again.") from error


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that a run depends on."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def plain(value: Any) -> Any:
    """A value for JSON: enums by their values, sets as lists."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
