"""What a run really runs on, read from the accelerator; and settings of DeepSpeed and FSDP that make all engines agree."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import TrainerCallback
from transformers.utils import strtobool

from ..errors import InputError
from ..models.precision import AUTOCAST_DTYPES


if TYPE_CHECKING:
    from transformers import TrainingArguments

# Optimizers that accelerate replaces by an equivalent one of DeepSpeed.
OFFLOADED_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adagrad")


@dataclass(frozen=True)
class Engine:
    """
    What a run runs on. A launch config can silently turn into something else, so this is read once it cannot change.

    Args:
        distributed_type (`str`): As accelerate names it: `NO`, `MULTI_CPU`, `MULTI_GPU`, `DEEPSPEED`, `FSDP`.
        num_processes (`int`): Processes that share the work.
        device (`str`): `cpu`, `cuda`, …
        precision (`str`): `no`, or the 16-bit type of autocast: `bf16`, `fp16`.
        zero_stage (`int`, *optional*): Of DeepSpeed.
        offload (`tuple[str]`): What is kept in the host's memory: `optimizer`, `param`.
        fsdp_version (`int`, *optional*): Of FSDP.
    """

    distributed_type: str
    num_processes: int
    device: str
    precision: str
    zero_stage: int | None = None
    offload: tuple[str, ...] = ()
    fsdp_version: int | None = None

    def __str__(self) -> str:
        name = self.distributed_type
        if self.zero_stage is not None:
            name += f" ZeRO-{self.zero_stage}"
        if self.fsdp_version is not None:
            name += f" {self.fsdp_version}"
        if self.offload:
            name += f" (on the host: {', '.join(self.offload)})"
        return f"Engine {name}, {self.num_processes} process(es), {self.device}, mixed precision {self.precision}"


def read_engine(accelerator: Accelerator) -> Engine:
    """
    Reads from the accelerator what the run runs on; for DeepSpeed from its engine, once there is one.

    Args:
        accelerator (`Accelerator`): The trainer's.
    """
    kind, stage, offload, fsdp, precision = accelerator.distributed_type, None, (), None, accelerator.mixed_precision
    if kind == DistributedType.DEEPSPEED:
        plugin, wrapped = accelerator.state.deepspeed_plugin, accelerator.deepspeed_engine_wrapped
        stage = plugin.zero_stage if wrapped is None else wrapped.engine.zero_optimization_stage()
        offload = tuple(part for part in ("optimizer", "param") if _offloaded(plugin, part))
        autocast = plugin.deepspeed_config.get("torch_autocast", {})
        if autocast.get("enabled"):
            precision = next(short for short, dtype in AUTOCAST_DTYPES.items() if dtype == autocast["dtype"])
    elif kind == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        fsdp = plugin.fsdp_version
        offload = ("optimizer", "param") if type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy" else ()
    name = str(kind).rsplit(".", 1)[-1]
    return Engine(name, accelerator.num_processes, accelerator.device.type, str(precision), stage, offload, fsdp)


def _offloaded(plugin: Any, part: str) -> bool:
    section = plugin.deepspeed_config.get("zero_optimization", {}).get(f"offload_{part}") or {}
    return section.get("device", "none") not in ("none", None)


def launched_with(name: str) -> bool:
    """Whether the launcher's environment asks for `CPU`, `DEEPSPEED` or `FSDP`."""
    return bool(strtobool(os.environ.get(f"ACCELERATE_USE_{name}", "false") or "false"))


def launched_for_cpu() -> bool:
    """
    Whether the processes are to compute on the CPU. Several processes on a machine without an accelerator have
    no other choice, but `Trainer` connects them only if `use_cpu` is set.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return launched_with("CPU") or (several and not torch.accelerator.is_available())


@contextlib.contextmanager
def full_precision_weights(config: TrainingArguments):
    """
    A context in which `TrainingArguments` initializes itself; afterwards bf16 and fp16 mean autocast under DeepSpeed,
    too.

    DeepSpeed's own `bf16` keeps the weights themselves in bf16 and saves them so: rewards lose precision, and the
    saved model is not the trained one. Its `torch_autocast` does what every other engine does. No layer is listed as
    safe to be communicated in 16 bits, because gathered weights are also the ones that are saved.

    Args:
        config (`TrainingArguments`): Its `bf16` and `fp16` are off afterwards where DeepSpeed does the autocasting.

    Raises:
        `InputError`: if a DeepSpeed config asks for 16-bit weights itself.
    """
    config.autocast = "bf16" if config.bf16 else "fp16" if config.fp16 else None
    deepspeed = launched_with("DEEPSPEED") or config.deepspeed
    if deepspeed:
        config.bf16 = config.fp16 = False
    # The recipe decides the precision; a launch config could otherwise change it unnoticed.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if config.bf16 else "fp16" if config.fp16 else "no"
    yield
    if not deepspeed:
        return
    plugin = config.deepspeed_plugin
    for name in AUTOCAST_DTYPES:
        if (plugin.deepspeed_config.get(name) or {}).get("enabled") is True:
            raise InputError(
                f"the DeepSpeed config has `{name}.enabled: true`, which would keep the weights in 16 bits and save "
                f"them so. Remove the section; `{name}: true` in the recipe computes in {name} on fp32 weights."
            )
    if config.autocast:
        dtype = AUTOCAST_DTYPES[config.autocast]
        autocast = {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}
        plugin.deepspeed_config["torch_autocast"] = autocast
    zero = plugin.deepspeed_config.get("zero_optimization", {})
    if zero.get("stage") == 3:  # otherwise no model that stock classes can load could be saved
        zero["stage3_gather_16bit_weights_on_model_save"] = True


def check_engine(accelerator: Accelerator, optim: str) -> None:
    """
    Refuses launches that turned into something other than their config says, or would.

    Args:
        accelerator (`Accelerator`): The trainer's.
        optim (`str`): Name of the optimizer.

    Raises:
        `InputError`: naming what was requested and what would run.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise InputError(
            f"{started} processes were started, but each of them would run on its own. To compute on the CPU of a "
            "machine that has a GPU too, pass --use_cpu true."
        )
    kind = accelerator.distributed_type
    if launched_with("FSDP"):
        if kind != DistributedType.FSDP:
            raise InputError(
                "the launch config asks for FSDP, but what would run is "
                f"{str(kind).rsplit('.', 1)[-1]}: accelerate has no FSDP without a GPU or with one process. Use "
                "accelerate_configs/cpu.yaml or single_gpu.yaml."
            )
        if accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise InputError("FSDP 1 is not supported. Set `fsdp_version: 2`, as accelerate_configs/fsdp2.yaml does.")
    if kind == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        forced = plugin.deepspeed_config.get("zero_force_ds_cpu_optimizer", True)
        if forced and _offloaded(plugin, "optimizer") and optim not in OFFLOADED_OPTIMIZERS:
            raise InputError(
                f"`optim` is '{optim}', but with the optimizer offloaded DeepSpeed would run its Adam instead. Set "
                "`optim: adamw_torch`, or use a launch config without `offload_optimizer_device`."
            )


def replay_bias_correction(optimizer: Any) -> None:
    """
    Restores in DeepSpeed's CPU Adam the exact powers of its betas from when its state was saved.

    Adam multiplies them in fp32, one step after the other, and after a resume uses `pow` instead, which rounds
    differently: early in training that changes the next step by 1e-5 of its length.

    Args:
        optimizer (`DeepSpeedCPUAdam`): With its state loaded.
    """
    nothing = [torch.zeros(1) for _ in range(4)]
    group, state = optimizer.param_groups[0], next(iter(optimizer.state.values()), {"step": 0})
    fixed = (*group["betas"], group["eps"], 0.0, group["bias_correction"])
    for step in range(1, int(state["step"]) + 1):  # one count for all parameters
        optimizer.ds_opt_adam.adam_update(optimizer.opt_id, step, 0.0, *fixed, *nothing)


def gpu_has_bf16() -> bool | None:
    """Whether the GPU of this machine computes in bf16; `None` without a GPU."""
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else None


def default_bf16(fp16: bool, on_cpu: bool, available: bool) -> bool:
    """
    The default of `bf16`, if the recipe does not set it.

    Args:
        fp16 (`bool`): Whether the recipe sets fp16.
        on_cpu (`bool`): Whether the run computes on a CPU.
        available (`bool`): Whether its GPU has bf16.
    """
    return not fp16 and not on_cpu and available


class LaunchedConfig:
    """
    What the configs of all stages read from the launch; must come before the `TrainingArguments` that they extend.
    """

    def __post_init__(self):
        self.use_cpu = self.use_cpu or launched_for_cpu()
        if self.bf16 is None:
            self.bf16 = default_bf16(bool(self.fp16), self.use_cpu, bool(gpu_has_bf16()))
        # transformers 5.20 renamed the field and warns at each use of TRL's default.
        for name in ("checkpointing", "checkpointing_kwargs"):
            if getattr(self, f"activation_{name}") is None:
                setattr(self, f"activation_{name}", getattr(self, f"gradient_{name}"))
        with full_precision_weights(self):
            super().__post_init__()
        if self.device.type == "cpu":
            # accelerate imports DeepSpeed wherever it is installed, and DeepSpeed would warn that it had to guess
            # this.
            os.environ.setdefault("DS_ACCELERATOR", "cpu")


class BiasCorrectionCallback(TrainerCallback):
    """Applied where DeepSpeed's CPU Adam resumes from a checkpoint: see [`replay_bias_correction`]."""

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        while state.global_step and optimizer is not None:  # accelerate's wrapper, that of ZeRO, Adam itself
            if hasattr(optimizer, "ds_opt_adam"):
                replay_bias_correction(optimizer)
            optimizer = getattr(optimizer, "optimizer", None)


class EngineHooks:
    """
    What the trainers of all stages do differently if an engine shards the model. They define `save_weights`, which
    writes a model on the process that saves.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Checks what really runs; FSDP computes with autocast on fp32 weights, as every other engine here."""
        super().create_accelerator_and_postprocess()
        check_engine(self.accelerator, str(getattr(self.args.optim, "value", self.args.optim)))
        if self.is_fsdp_enabled:
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # accelerate's policy would even compute, reduce and return the rewards in bf16.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> contextlib.AbstractContextManager:
        """Accelerate puts autocast around the model's forward pass, except under FSDP 2."""
        return self.accelerator.autocast() if self.is_fsdp_enabled else contextlib.nullcontext()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves a model that stock classes can load; under FSDP also where the checkpoint's own state is sharded."""
        if self.is_fsdp_enabled:
            state_dict = self.accelerator.get_state_dict(self.model)  # whole, on the first process
            self.save_weights(output_dir or self.args.output_dir, state_dict)
        else:
            super().save_model(output_dir, _internal_call)
