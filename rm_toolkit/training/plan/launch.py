"""Where an engine keeps parameters, gradients and optimizer states: bytes per GPU and per machine's host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...output.strict_yaml import read_yaml
from .. import engines
from ..weight_bytes import WeightBytes, optimizer_bytes, weight_bytes
from .launch_keys import launch_keys


# What DeepSpeed and DDP reserve by default, in elements: https://www.deepspeed.ai/docs/config-json
REDUCE_BUCKET = 500_000_000
MAX_LIVE_PARAMETERS = 1_000_000_000
CUDA_CONTEXT = 2**30
PROCESS = 2**30  # Python with torch and transformers imported, and tokenised data
PINNED_FACTOR = 1.5  # FSDP 2 pins what it offloads, and PyTorch rounds pinned blocks up


@dataclass
class Launch:
    """
    What a launch config starts.

    Args:
        kind (`str`): `none`, `ddp`, `zero2`, `zero3` or `fsdp2`.
        num_processes (`int`): Over all machines.
        num_machines (`int`): Machines.
        on_cpu (`bool`): Whether it computes on CPUs; the processes then share the host's memory.
        offload_optimizer (`bool`): Whether gradients and optimizer states are kept on the host.
        offload_parameters (`bool`): Whether parameters are kept on the host.
    """

    kind: str
    num_processes: int = 1
    num_machines: int = 1
    on_cpu: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the parameters."""
        return self.kind in ("zero3", "fsdp2")

    @property
    def per_machine(self) -> int:
        """Processes of one machine."""
        return max(1, self.num_processes // self.num_machines)

    def launched(self, precision: str = "no") -> engines.Engine:
        """
        The engine as a run with this launch reports it.

        Args:
            precision (`str`): `no`, or the 16-bit type of autocast: `bf16`, `fp16`.
        """
        zero = self.kind.startswith("zero")
        kind = {"none": "NO", "ddp": "MULTI_CPU" if self.on_cpu else "MULTI_GPU", "fsdp2": "FSDP"}
        moved = (("optimizer", self.offload_optimizer), ("param", self.offload_parameters))
        return engines.Engine(
            distributed_type="DEEPSPEED" if zero else kind[self.kind],
            num_processes=self.num_processes,
            device="cpu" if self.on_cpu else "cuda",
            precision=precision,
            zero_stage=int(self.kind.removeprefix("zero")) if zero else None,
            offload=tuple(part for part, on in moved if on),
            fsdp_version=2 if self.kind == "fsdp2" else None,
        )

    @property
    def name(self) -> str:
        """For people."""
        names = {"none": "one process", "ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}
        offload = [
            what for what, on in (("optimizer", self.offload_optimizer), ("parameters", self.offload_parameters)) if on
        ]
        name = names[self.kind] + (f" with {' and '.join(offload)} on the host" if offload else "")
        return f"{name}, {self.num_processes} process(es) on {self.num_machines} machine(s)"


def read_launch(path: str | Path) -> Launch:
    """
    Reads a launch config of `accelerate`.

    Raises:
        `InputError`: if the file cannot be read, or names an engine that is not known.
    """
    remedy = "Give one of accelerate_configs/, or what `accelerate config` wrote."
    values = read_yaml(path, "the launch config", remedy)
    if "distributed_type" not in values:
        raise InputError(f"{path} is not a launch config of accelerate (it has no `distributed_type`). {remedy}")
    launch_keys().check("launch config", values, f"{path}: ")
    kind = str(values["distributed_type"]).upper()
    number = values.get("num_processes") or 1
    launch = Launch(
        "none" if number == 1 else "ddp", number, values.get("num_machines") or 1, bool(values.get("use_cpu"))
    )
    if kind == "DEEPSPEED":
        config = values.get("deepspeed_config") or {}
        stage = int(config.get("zero_stage", 2))
        launch.kind = f"zero{stage}" if stage in (2, 3) else ""
        launch.offload_optimizer = str(config.get("offload_optimizer_device", "none")) in ("cpu", "nvme")
        launch.offload_parameters = stage == 3 and str(config.get("offload_param_device", "none")) in ("cpu", "nvme")
    elif kind == "FSDP":
        config = values.get("fsdp_config") or {}
        launch.kind = "fsdp2"
        launch.offload_optimizer = launch.offload_parameters = bool(config.get("fsdp_offload_params"))
    elif kind not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        launch.kind = ""
    if not launch.kind:
        raise InputError(
            f"{path}: this kind of run cannot be planned (`distributed_type: {kind}`). Supported: DeepSpeed stages 2 "
            f"and 3, FSDP and DDP."
        )
    return launch


@dataclass
class Weights:
    """
    Sizes of a model.

    Args:
        parameters (`int`): Number of all parameters.
        trained (`int`): Number of trained parameters.
        stored (`int`): Bytes of all parameters as stored.
        largest (`int`): Parameters of the largest layer, which a sharding engine gathers at a time.
    """

    parameters: int
    trained: int
    stored: int
    largest: int


@dataclass
class Memory:
    """Bytes by kind: on each GPU (or CPU process), and on each host."""

    device: dict[str, int]
    host: dict[str, int]
    step_extra: int = 0

    @property
    def device_total(self) -> int:
        return sum(self.device.values())

    @property
    def host_total(self) -> int:
        return sum(self.host.values())


def model_states(launch: Launch, weights: Weights, optimizer: str, *, accumulates: bool) -> Memory:
    """
    Bytes of parameters, gradients, optimizer states and the engine's own buffers.

    Args:
        launch (`Launch`): Where they are kept.
        weights (`Weights`): How many there are.
        optimizer (`str`): Name of `optim`.
        accumulates (`bool`): Whether gradients of earlier micro-batches are in memory while one is computed; otherwise
            they are counted with the activations.
    """
    held, trained = weight_bytes(launch.launched()), weights.trained
    parts = launch.num_processes if launch.kind != "ddp" else 1
    device = {
        "parameters": weights.stored // (parts if launch.sharded else 1),
        "gradients": 0,
        "optimizer states": optimizer_bytes(optimizer) * trained // parts,
        "the optimizer's own weights": held.master * trained // parts,
    }
    if accumulates or launch.kind not in ("none", "ddp"):
        device["gradients"] = held.gradients * trained // parts
    host = dict.fromkeys(device, 0)
    factor = PINNED_FACTOR if launch.kind == "fsdp2" else 1
    for name in device:
        if launch.offload_parameters if name == "parameters" else launch.offload_optimizer:
            host[name] = int(device[name] * launch.per_machine * factor)
            device[name] = 0
    host["copies on their way"] = held.moved * trained // parts * launch.per_machine
    device["gathered layers and buckets"] = _buffers(launch, weights, held)
    # PyTorch's plain AdamW on a GPU keeps one more value per parameter during the step.
    on_gpu = not launch.on_cpu and not launch.offload_optimizer
    step_extra = held.element * trained // parts if on_gpu and optimizer == "adamw_torch" else 0
    host["processes"] = PROCESS * launch.per_machine
    if not launch.on_cpu:
        device["CUDA context"] = CUDA_CONTEXT
    return Memory(device, host, step_extra)


def _buffers(launch: Launch, weights: Weights, held: WeightBytes) -> int:
    element = held.element
    if launch.kind == "ddp":
        return element * weights.trained  # buckets that gradients are reduced in
    if launch.kind == "zero2":
        return 2 * element * min(REDUCE_BUCKET, weights.trained)  # one is reduced while the other is filled
    if launch.kind == "zero3":
        live = min(MAX_LIVE_PARAMETERS, weights.parameters)
        return element * (max(live, weights.largest) + min(REDUCE_BUCKET, weights.trained))
    if launch.kind == "fsdp2":
        return 3 * element * weights.largest  # a layer, the next one being gathered, and the gradients of the last
    return 0


def deepspeed_estimate(launch: Launch, weights: Weights) -> tuple[int, int] | None:
    """
    DeepSpeed's own estimate for training in 16 bits with Adam, `(bytes of a GPU, bytes of a host)`, without activations.
    """
    if launch.kind not in ("zero2", "zero3"):
        return None
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    machines = {"num_gpus_per_node": launch.per_machine, "num_nodes": launch.num_machines}
    offload = {"cpu_offload": launch.offload_optimizer}
    if launch.kind == "zero2":
        host, device = estimate_zero2_model_states_mem_needs(weights.parameters, **machines, **offload)
    else:
        host, device, _ = estimate_zero3_model_states_mem_needs(
            weights.parameters,
            weights.largest,
            **machines,
            **offload,
            cpu_offload_params=launch.offload_parameters,
        )
    return int(device), int(host)
