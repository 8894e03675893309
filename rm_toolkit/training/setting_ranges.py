"""Ranges of the upstream settings that a run uses; our own fields declare theirs in place."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import FullyShardedDataParallelPlugin
from peft import TaskType
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.checkpoint import checkpoint
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType

from ..errors import InputError, did_you_mean, first_line, name_list
from ..output.nested_ranges import Keys, ListOf
from ..output.ranges import MANY, Choice, Flag, Number, Range, Text, shown
from ..output.stated_ranges import check_ranges, ranges_of
from ..output.strict_json import strict_json


MOST_SEED = 2**32 - 1  # limit of NumPy's generator
MOST_PROCESSES = 1024
MOST_BATCH = 65_536
TEXT_LENGTH = Number(4, 2**24, whole=True, unit="tokens")
COEFFICIENT = Number(0, 1000)
PROCESSES = Number(1, MOST_PROCESSES, whole=True)
INTERVAL = Number(0, MANY, above=True, share=True)  # steps, or a share of the run's steps


@dataclass(frozen=True)
class UpstreamKeys(Keys):
    """
    A mapping that upstream also reads as JSON in braces.

    Args:
        file (`bool`): Whether any other string is the path of a JSON file.
    """

    file: bool = False

    def holds(self, value: Any) -> bool:
        """Whether it is a mapping, or a string that upstream converts to one."""
        if not isinstance(value, str):
            return super().holds(value)
        return value.lstrip().startswith("{") or (self.file and Path(value).is_file())

    @property
    def text(self) -> str:
        """In words."""
        return super().text + (" or the path of a JSON file" if self.file else "")

    def check(self, name: str, value: Any, where: str = "") -> None:
        """As for every mapping, also inside JSON, and for the converted value."""
        value = value.to_dict() if hasattr(value, "to_dict") else value
        Range.check(self, name, value, where)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = strict_json(value)
            except ValueError as error:
                raise InputError(
                    f"{where}`{name}` is {shown(value)}, which is not valid JSON ({first_line(error)})."
                ) from error
        if not isinstance(value, str):
            super().check(name, value, where)


@dataclass(frozen=True)
class Pairs(Text):
    """A string `name=value,name=value`, as upstream parses it."""

    @property
    def text(self) -> str:
        """In words."""
        return "a string such as 'name=value,name=value'"

    def holds(self, value: Any) -> bool:
        """Whether each part has one equals sign with something on both sides."""
        if not super().holds(value):
            return False
        parts = [part.split("=") for part in value.replace(" ", "").split(",") if value]
        return all(len(part) == 2 and all(part) for part in parts)


@dataclass(frozen=True)
class OneOrMore(Choice):
    """One of some names, or a list of them."""

    def holds(self, value: Any) -> bool:
        """Whether each of them is one of the names."""
        return all(super(OneOrMore, self).holds(entry) for entry in (value if isinstance(value, list) else [value]))


def _names(names: Iterable[str]) -> dict[str, Range | None]:
    return dict.fromkeys(names)


_RECOMPUTATION = UpstreamKeys(
    _names(set(inspect.signature(checkpoint).parameters) - {"function", "args", "kwargs"})
    | {"preserve_rng_state": Flag(), "determinism_check": Choice(("default", "none"))}
    | {name: Flag() for name in ("use_reentrant", "debug", "early_stop")}
)
_FSDP = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)} | {
    "version", "min_num_params", "transformer_layer_cls_to_wrap", "xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt",
    "xla_fsdp_settings", "reshard_after_forward", "cpu_offload", "auto_wrap_policy", "cpu_ram_efficient_loading",
    "state_dict_type", "activation_checkpointing", "forward_prefetch", "backward_prefetch", "use_orig_params",
    "sync_module_states", "limit_all_gathers",
}  # fmt: skip

UPSTREAM: dict[str, Range] = {
    "per_device_train_batch_size": Number(1, MOST_BATCH, whole=True, unit="pairs"),
    "per_device_eval_batch_size": Number(1, MOST_BATCH, whole=True, unit="pairs"),
    "num_train_epochs": Number(0, 100_000, above=True),
    "max_steps": Number(1, MANY, whole=True, also=(-1,)),
    "learning_rate": Number(0, 100),
    "warmup_steps": Number(0, MANY, share=True),
    "weight_decay": Number(0, 100),
    "adam_beta1": Number(0, 1, below=True),
    "adam_beta2": Number(0, 1, below=True),
    "adam_epsilon": Number(0, 1),
    "gradient_accumulation_steps": Number(1, 1_000_000, whole=True),
    "max_grad_norm": Number(0, 1e6),
    "label_smoothing_factor": Number(0, 1, below=True),
    "neftune_noise_alpha": Number(0, 1000),
    "torch_empty_cache_steps": Number(1, MANY, whole=True),
    "logging_steps": INTERVAL,
    "eval_steps": INTERVAL,
    "save_steps": INTERVAL,
    "eval_delay": Number(0, MANY),
    "eval_accumulation_steps": Number(1, MANY, whole=True),
    "save_total_limit": Number(1, MANY, whole=True),
    "seed": Number(0, MOST_SEED, whole=True),
    "data_seed": Number(0, MOST_SEED, whole=True),
    "dataloader_num_workers": Number(0, MOST_PROCESSES, whole=True),
    "dataloader_prefetch_factor": Number(1, 10_000, whole=True),
    "dataset_num_proc": PROCESSES,
    "ddp_bucket_cap_mb": Number(1, 1_000_000, whole=True),
    "ddp_timeout": Number(1, 10_000_000, whole=True, unit="seconds"),
    "local_rank": Number(-1, 1_000_000, whole=True),
    "pad_to_multiple_of": Number(1, MOST_BATCH, whole=True, also=("auto",)),
    "center_rewards_coefficient": COEFFICIENT,
    "router_aux_loss_coef": COEFFICIENT,
    "lora_r": Number(1, MOST_BATCH, whole=True),
    "lora_alpha": Number(1, 1_000_000, whole=True),
    "lora_dropout": Number(0, 1, below=True),
    "include_num_input_tokens_seen": Choice(("all", "non_padding", "no", True, False)),
    "optim_args": Pairs(),
    "report_to": OneOrMore((*INTEGRATION_TO_CALLBACK, "all", "none")),
    "lora_target_modules": ListOf(Text(empty=False), alone=True),  # TRL converts a list of one to a string
    "lora_task_type": Choice(tuple(kind.value for kind in TaskType)),
    "output_dir": Text(empty=False),
    "model_revision": Text(empty=False),
    "accelerator_config": UpstreamKeys(
        _names([field.name for field in dataclasses.fields(AcceleratorConfig)]), file=True
    ),
    "gradient_checkpointing_kwargs": _RECOMPUTATION,
    "activation_checkpointing_kwargs": _RECOMPUTATION,
    "lr_scheduler_kwargs": UpstreamKeys(),
    "model_init_kwargs": UpstreamKeys(),
    "dataset_kwargs": UpstreamKeys({"skip_prepare_dataset": Flag(), "add_special_tokens": Flag()}),
    "fsdp_config": UpstreamKeys(_names(sorted(_FSDP | {f"fsdp_{name}" for name in _FSDP})), file=True),
    "deepspeed": UpstreamKeys(file=True),
    "liger_kernel_config": Keys(),
    "train_datasets": Keys(),
    "eval_datasets": Keys(),
    "replay_datasets": Keys(),
}


@functools.cache
def setting_ranges(settings: type) -> Mapping[str, Range | None]:
    """Returns the range of each field of a recipe's dataclass, see [`~rm_toolkit.output.stated_ranges.ranges_of`]."""
    return ranges_of(settings, UPSTREAM)


def check_settings(settings: Any, where: str = "") -> None:
    """
    Refuses the first value of a recipe's dataclass that is out of its range.

    Args:
        settings: An instance, before upstream converts its values.
        where (`str`): Prefix of the message.

    Raises:
        `InputError`: naming the setting, its value and its range.
    """
    check_ranges(settings, where, setting_ranges(type(settings)))
    if isinstance(settings, TrainingArguments):
        _check_schedule(settings, where)


def _check_schedule(args: TrainingArguments, where: str) -> None:
    """The keys of `lr_scheduler_kwargs` are the parameters of the schedule."""
    options = args.lr_scheduler_kwargs
    if not options:
        return
    options = strict_json(options) if isinstance(options, str) else options
    schedule = SchedulerType(args.lr_scheduler_type)
    known = set(inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[schedule]).parameters) - {"kwargs"}
    if schedule == SchedulerType.REDUCE_ON_PLATEAU:
        known = set(inspect.signature(ReduceLROnPlateau).parameters)
    known -= {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    for name in options:
        if name not in known and schedule != SchedulerType.GREEDY:
            there = f"only {name_list(sorted(known))}" if known else "and has none"
            raise InputError(
                f"{where}`lr_scheduler_kwargs` has no key '{name}' for the schedule '{schedule.value}', {there}."
                f"{did_you_mean(name, known)}"
            )
