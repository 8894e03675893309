"""What checkpoints from before `run_identity.json` (up to version 0.2.1) say about their run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import TrainingArguments

from ..errors import InputError
from ..models.settings import SETTINGS_NAME
from ..output.json_files import load_json
from .manifest import read_manifest
from .run_content import describe_content
from .run_identity import describe_adapter, effective_settings
from .run_record import is_recorded, plain


def recorded_settings(folder: str, config: type[TrainingArguments], stages: int | None) -> dict[str, Any]:
    """
    Reads what a checkpoint of version 0.2.1 records about its run, as the entries of
    [`~rm_toolkit.training.run_identity.describe_run`]; what it does not record is left out. No pickle is read.

    Args:
        folder (`str`): The checkpoint.
        config (`type`): Class of the configuration, for the defaults.
        stages (`int`, *optional*): Number of lineage entries of this run; `None` if the run adds none.

    Raises:
        `InputError`: if one of its files cannot be read.
    """
    settings, state = (_read(Path(folder, name)) for name in (SETTINGS_NAME, "trainer_state.json"))
    lineage = settings.get("lineage") or []
    entry = lineage[-1] if stages is not None and len(lineage) == stages else {}
    streaming = any(described.get("streaming") for described in entry.get("datasets", {}).values())
    values = _fields(entry, config) if "changed_settings" in entry else {}
    found = effective_settings(values, streaming=streaming, total_steps=state.get("max_steps"))
    found |= {name: settings[name] for name in ("pooling_type", "data_format", "max_length") if name in settings}
    found["plan_version"] = 1
    found["pools_eos"] = bool(settings.get("pools_eos"))
    if entry:
        found |= {"stage": settings.get("stage"), "domain": settings.get("domain")}
        found["eval_sets"] = sorted(entry.get("eval_datasets", {})) or "none"
        found |= describe_content(entry) | entry.get("versions", {})
        # Under DeepSpeed `bf16` was turned off before it was recorded.
        if not any(Path(folder).glob("global_step*")):
            changed = entry["changed_settings"]
            found["precision"] = "bf16" if changed.get("bf16") else "fp16" if changed.get("fp16") else "no"
    if state.get("train_batch_size") and not values.get("max_tokens_per_batch"):
        found["micro_batch"] = f"{state['train_batch_size']} pairs"
    manifest = read_manifest(folder) or {}
    if "num_processes" in manifest:
        found["num_processes"] = manifest["num_processes"]
    if "rm_toolkit_version" in manifest:
        found["rm_toolkit"] = manifest["rm_toolkit_version"]
    adapter = Path(folder, "adapter_config.json").exists()
    found["adapter"] = describe_adapter(PeftConfig.from_pretrained(folder) if adapter else None)
    return found


def _fields(entry: Mapping[str, Any], config: type[TrainingArguments]) -> dict[str, Any]:
    """The configuration, as far as it was recorded: only what differed from the defaults was written down."""
    known = ("learning_rate", "num_train_epochs", "max_steps", "pairs_per_step", "lm_loss_coef", "seed")
    values = {}
    for item in dataclasses.fields(config):
        if item.name in known and item.name in entry:
            values[item.name] = entry[item.name]
        elif is_recorded(item.name):
            default = item.default_factory() if item.default is dataclasses.MISSING else item.default
            values[item.name] = entry["changed_settings"].get(item.name, plain(default))
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Restore it, or use another checkpoint.") from error
    return content if isinstance(content, dict) else {}
