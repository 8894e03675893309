"""Where an engine keeps parameters, gradients and optimizer states: bytes of each GPU and of each machine's host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError


# What DeepSpeed and DDP reserve by default, in elements: https://www.deepspeed.ai/docs/config-json
REDUCE_BUCKET = 500_000_000
MAX_LIVE_PARAMETERS = 1_000_000_000
# Bytes of the optimizer's states a trained parameter; AdamW's two moments unless it is one of these.
OPTIMIZER_STATES = {"sgd": 0, "adafactor": 0, "rmsprop": 4, "adagrad": 4, "lomo": 0, "adalomo": 0}
CUDA_CONTEXT = 2**30
PROCESS = 2**30  # Python with torch and transformers imported, and tokenised data
OFFLOAD_FACTOR = 1.5  # DeepSpeed's own `additional_buffer_factor`: pinned copies and fragments


@dataclass
class Engine:
    """
    What a launch config starts.

    Args:
        kind (`str`): `none`, `ddp`, `zero2`, `zero3` or `fsdp2`.
        num_processes (`int`): Over all machines.
        num_machines (`int`): Machines.
        on_cpu (`bool`): Whether it computes on CPUs: then the processes share the host's memory.
        offload_optimizer (`bool`): Whether gradients and optimizer states stand on the host.
        offload_parameters (`bool`): Whether parameters do.
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

    @property
    def name(self) -> str:
        """For people."""
        names = {"none": "one process", "ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}
        offload = [
            what for what, on in (("optimizer", self.offload_optimizer), ("parameters", self.offload_parameters)) if on
        ]
        name = names[self.kind] + (f" with {' and '.join(offload)} on the host" if offload else "")
        return f"{name}, {self.num_processes} process(es) on {self.num_machines} machine(s)"


def read_engine(path: str | Path) -> Engine:
    """
    Reads a launch config of `accelerate`.

    Raises:
        `InputError`: if the file cannot be read, or names an engine that is not known.
    """
    try:
        values: dict[str, Any] = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        kind = str(values["distributed_type"]).upper()
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no launch config of accelerate ({type(error).__name__}: {error}). Give one of "
            "accelerate_configs/, or what `accelerate config` wrote."
        ) from error
    number = int(values.get("num_processes") or 1)
    engine = Engine(
        "none" if number == 1 else "ddp", number, int(values.get("num_machines") or 1), bool(values.get("use_cpu"))
    )
    if kind == "DEEPSPEED":
        config = values.get("deepspeed_config") or {}
        stage = int(config.get("zero_stage", 2))
        engine.kind = f"zero{stage}" if stage in (2, 3) else ""
        engine.offload_optimizer = str(config.get("offload_optimizer_device", "none")) in ("cpu", "nvme")
        engine.offload_parameters = stage == 3 and str(config.get("offload_param_device", "none")) in ("cpu", "nvme")
    elif kind == "FSDP":
        config = values.get("fsdp_config") or {}
        engine.kind = "fsdp2"
        engine.offload_optimizer = engine.offload_parameters = bool(config.get("fsdp_offload_params"))
    elif kind not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        engine.kind = ""
    if not engine.kind:
        raise InputError(
            f"{path}: no plan is made for this kind of run (`distributed_type: {kind}`); DeepSpeed stages 2 and 3, FSDP and DDP are known."
        )
    return engine


@dataclass
class Weights:
    """
    Sizes of a model.

    Args:
        parameters (`int`): Number of all parameters.
        trained (`int`): Number of those that are trained.
        stored (`int`): Bytes of all of them as they are stored.
        largest (`int`): Parameters of the largest layer, which a sharding engine gathers at a time.
        sixteen_bit (`bool`): Whether the engine computes on 16-bit copies and keeps fp32 ones with the optimizer.
    """

    parameters: int
    trained: int
    stored: int
    largest: int
    sixteen_bit: bool = False


@dataclass
class Memory:
    """Bytes by what takes them: on each GPU (or CPU process), and on each host."""

    device: dict[str, int]
    host: dict[str, int]
    step_extra: int = 0

    @property
    def device_total(self) -> int:
        return sum(self.device.values())

    @property
    def host_total(self) -> int:
        return sum(self.host.values())


def model_states(engine: Engine, weights: Weights, optimizer: str, *, accumulates: bool) -> Memory:
    """
    Bytes of parameters, gradients, optimizer states and the engine's own buffers.

    Args:
        engine (`Engine`): Where they stand.
        weights (`Weights`): How many there are.
        optimizer (`str`): Name of `optim`.
        accumulates (`bool`): Whether gradients are there while a micro-batch is computed; otherwise those are counted
            with the activations, among which they come to be.
    """
    count, trained = weights.parameters, weights.trained
    parts = engine.num_processes if engine.kind != "ddp" else 1
    element = 2 if weights.sixteen_bit else 4
    stored = weights.stored if not weights.sixteen_bit else 2 * count
    states = _state_bytes(optimizer) * trained + (4 * trained if weights.sixteen_bit else 0)
    gradients = 4 * trained if engine.kind in ("none", "ddp") or not weights.sixteen_bit else 2 * trained
    device = {
        "parameters": stored // (parts if engine.sharded else 1),
        "gradients": 0,
        "optimizer states": states // parts,
    }
    host = {"parameters": 0, "gradients": 0, "optimizer states": 0}
    if accumulates or engine.kind not in ("none", "ddp"):
        device["gradients"] = gradients // parts
    for name, moved in (
        ("optimizer states", engine.offload_optimizer),
        ("gradients", engine.offload_optimizer),
        ("parameters", engine.offload_parameters),
    ):
        if moved:
            host[name] = int(device[name] * engine.per_machine * OFFLOAD_FACTOR)
            device[name] = 0
    device["gathered layers and buckets"] = _buffers(engine, weights, element)
    # PyTorch's plain AdamW on a GPU keeps one more value a parameter while it steps.
    on_gpu = not engine.on_cpu and not engine.offload_optimizer
    step_extra = 4 * trained // parts if on_gpu and optimizer == "adamw_torch" else 0
    host["processes"] = PROCESS * engine.per_machine
    if not engine.on_cpu:
        device["CUDA context"] = CUDA_CONTEXT
    return Memory(device, host, step_extra)


def _buffers(engine: Engine, weights: Weights, element: int) -> int:
    if engine.kind == "ddp":
        return 4 * weights.trained  # buckets that gradients are reduced in
    if engine.kind == "zero2":
        return 2 * element * min(REDUCE_BUCKET, weights.trained)  # one is reduced while the other is filled
    if engine.kind == "zero3":
        live = min(MAX_LIVE_PARAMETERS, weights.parameters)
        return element * (max(live, weights.largest) + min(REDUCE_BUCKET, weights.trained))
    if engine.kind == "fsdp2":
        return 3 * 4 * weights.largest  # a layer, the next one on its way, and the gradients of the last
    return 0


def _state_bytes(optimizer: str) -> int:
    name = optimizer.lower()
    if "8bit" in name:
        return 2
    return next((size for known, size in OPTIMIZER_STATES.items() if name.startswith(known)), 8)


def deepspeed_estimate(engine: Engine, weights: Weights) -> tuple[int, int] | None:
    """
    DeepSpeed's own estimate for training in 16 bits with Adam, `(bytes of a GPU, bytes of a host)`, without activations.
    """
    if engine.kind not in ("zero2", "zero3"):
        return None
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    machines = {"num_gpus_per_node": engine.per_machine, "num_nodes": engine.num_machines}
    offload = {"cpu_offload": engine.offload_optimizer}
    if engine.kind == "zero2":
        host, device = estimate_zero2_model_states_mem_needs(weights.parameters, **machines, **offload)
    else:
        host, device, _ = estimate_zero3_model_states_mem_needs(
            weights.parameters,
            weights.largest,
            **machines,
            **offload,
            cpu_offload_params=engine.offload_parameters,
        )
    return int(device), int(host)
