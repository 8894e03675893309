"""The identity of a run, recorded in each checkpoint, so that a later launch cannot resume with something else."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from .. import __version__
from ..batches.replay_plan import replayed_per_step
from ..errors import InputError
from ..models.quantization import quantization_of
from ..output.folders import replace_text
from ..output.json_files import load_json
from .engines import read_engine
from .micro_batch_size import AUTO
from .parts import RunParts
from .resume_rules import IGNORED, rule_of
from .run_content import tokens_digest
from .run_record import library_versions, plain


if TYPE_CHECKING:
    from peft import PeftConfig

IDENTITY_NAME = "run_identity.json"
FORMAT = 1
# Fields of an adapter's config that say where it is used, not what it is.
NOT_OF_THE_ADAPTER = (
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "auto_mapping",
    "peft_version",
    "task_type",
)
SCHEDULE = ("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")


@dataclass
class RunIdentity:
    """
    The run of a checkpoint, and its settings.

    Args:
        run_id (`str`): Random id, drawn when the run began; kept when it resumes.
        settings (`dict[str, Any]`): Result of [`describe_run`].
        changed (`list[dict]`): What has changed since the run began: `step`, `setting`, `before`, `after`.
        accepted (`list[str]`): Entries that this launch has changed; not saved.
    """

    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    settings: dict[str, Any] = field(default_factory=dict)
    changed: list[dict[str, Any]] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `run_identity.json` into a checkpoint."""
        content = {"format": FORMAT, "run_id": self.run_id, "settings": self.settings, "changed": self.changed}
        replace_text(Path(folder, IDENTITY_NAME), json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> RunIdentity | None:
        """
        Reads `run_identity.json` of a checkpoint; `None` if there is none, as up to version 0.2.1.

        Raises:
            `InputError`: if it exists and cannot be read.
        """
        path = Path(folder, IDENTITY_NAME)
        try:
            content = load_json(path)
            if content["format"] > FORMAT:
                raise InputError(
                    f"{path} was written by a later version of rm_toolkit (format {content['format']}; this version "
                    f"reads {FORMAT}). Resume with that version."
                )
            return cls(str(content["run_id"]), dict(content["settings"]), list(content["changed"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error!r}). Restore it, or use another checkpoint.") from error


def describe_run(run: RunParts) -> dict[str, Any]:
    """
    Describes a run, as far as a later launch may differ. Values are the effective ones, not those as written.

    Args:
        run (`RunParts`): Before its first step.
    """
    values = {item.name: getattr(run.args, item.name) for item in dataclasses.fields(run.args)}
    found = effective_settings(values, streaming=run.data.is_stream, total_steps=_total_steps(run))
    found |= {name: getattr(run.model.settings, name) for name in ("stage", "domain", "pools_eos", "chat_date")}
    if run.micro_batch is not None:  # as found by the search, or halved since
        found["micro_batch"] = run.micro_batch
    if run.plan_version is not None:
        found["plan_version"] = run.plan_version
    found |= _describe_model(run) | _describe_data(run) | _describe_machine(run.accelerator)
    for name, given in zip(("optimizer", "scheduler"), run.given_optimizers):
        found[f"given_{name}"] = None if given is None else _describe_given(given)
    if run.given_optimizers[0] is not None:
        found["learning_rate"] = None
    if run.given_optimizers[1] is not None:
        found |= dict.fromkeys(SCHEDULE, None)
    return plain(found)


def effective_settings(values: Mapping[str, Any], *, streaming: bool, total_steps: int | None) -> dict[str, Any]:
    """
    Returns the effective values of a configuration: one entry for all ways to write the same.

    Args:
        values (mapping): Fields and their values; may be incomplete.
        streaming (`bool`): Whether the training data is a stream.
        total_steps (`int`, *optional*): Optimizer steps of the whole run.
    """
    found = {
        name: plain(value)
        for name, value in values.items()
        if rule_of(name).kind != IGNORED and rule_of(name).compared_as is None
    }
    if "seed" in found and "data_seed" in found and found["data_seed"] is None:
        found["data_seed"] = found["seed"]
    if not streaming:
        found.pop("shuffle_buffer_size", None)
    else:
        found.pop("ignore_data_skip", None)  # set for every stream
    if not values.get("lm_loss_coef"):
        found.pop("lm_score_threshold", None)
        found.pop("lm_loss_on", None)
    if total_steps is not None:
        found["total_steps"] = total_steps
        warmup = found.get("warmup_steps") or 0
        if "warmup_steps" in found:
            found["warmup_steps"] = int(warmup) if warmup >= 1 else math.ceil(total_steps * warmup)
    if values.get("max_tokens_per_batch") not in (None, AUTO):
        found["micro_batch"] = f"{values['max_tokens_per_batch']} tokens"
    elif "per_device_train_batch_size" in values:
        found["micro_batch"] = f"{values['per_device_train_batch_size']} pairs"
    if not values.get("load_best_model_at_end", True):
        found["best_model"] = "the last one"
    elif "eval_strategy" in values:
        names = ("metric_for_best_model", "greater_is_better", "eval_strategy", "eval_steps")
        found["best_model"] = {name: plain(values.get(name)) for name in names}
    return found


def describe_adapter(config: PeftConfig | None) -> Any:
    """
    Describes an adapter: the settings that differ from the defaults of its type, and always rank and scale.

    Args:
        config (`PeftConfig`, *optional*): Config of the model's adapter, or of a checkpoint's.
    """
    if config is None:
        return "none"
    defaults = type(config)()
    found = {}
    for item in dataclasses.fields(config):
        value, default = (plain(getattr(part, item.name)) for part in (config, defaults))
        value = sorted(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
        named = item.name in ("peft_type", "r", "lora_alpha") or not same(value, default)
        if named and item.name not in NOT_OF_THE_ADAPTER:
            found[item.name] = value
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values mean the same: `None`, `False`, `0` and `{}` all mean "off"."""
    return one == other or (not one and not other)


def _total_steps(run: RunParts) -> int:
    args = run.args
    if args.max_steps > 0:
        return args.max_steps
    fresh = args.pairs_per_step
    if run.data.replay is not None:
        fresh -= replayed_per_step(fresh, args.general_replay_fraction)
    return math.ceil(args.num_train_epochs * -(-len(run.data.train) // fresh))


def _describe_model(run: RunParts) -> dict[str, Any]:
    model = run.model
    adapter = next(iter(model.classifier.peft_config.values())) if model.is_peft else None
    return {
        **run.base.settings(),
        "adapter": describe_adapter(adapter),
        "quantization": quantization_of(model) or "none",
        "attention": getattr(model.base_classifier.config, "_attn_implementation", None),
        "batch_layout": run.batch_layout,
    }


def _describe_data(run: RunParts) -> dict[str, Any]:
    found = {
        **run.content,
        "train_tokens": tokens_digest(run.data.sample, with_lm_targets=run.args.lm_loss_coef > 0),
    }
    if run.data.replay is not None:
        found["replay_tokens"] = tokens_digest(run.data.replay)
    found["eval_sets"] = sorted(run.tests) or "none"
    return found | {f"eval_tokens.{name}": tokens_digest(test) for name, test in run.tests.items()}


def _describe_machine(accelerator: Accelerator) -> dict[str, Any]:
    engine = read_engine(accelerator)
    device = engine.device
    if device == "cuda":
        device += f" ({torch.cuda.get_device_name()})"
    name = str(dataclasses.replace(engine, num_processes=0, device="", precision="")).partition(",")[0]
    return {
        "num_processes": engine.num_processes,
        "device": device,
        "precision": engine.precision,
        "engine": name.removeprefix("Engine "),
        "threads": torch.get_num_threads() if engine.device == "cpu" else None,
        "rm_toolkit": __version__,
        **library_versions(),
    }


def _describe_given(given: Any) -> dict[str, Any]:
    """Describes an optimizer or scheduler passed from Python: its class, and an optimizer's settings."""
    values = {name: value for name, value in getattr(given, "defaults", {}).items() if not callable(value)}
    return {"class": type(given).__name__, **{name: plain(value) for name, value in values.items()}}
