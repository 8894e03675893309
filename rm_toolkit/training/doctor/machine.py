"""The hardware and compilers of this machine: cores, memory, GPUs, C++ compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass

import torch

from ..engines import gpu_has_bf16
from ..plan.report import found_memory


@dataclass(frozen=True)
class Machine:
    """
    What a run can compute with here.

    Args:
        cores (`int`): CPU cores that this process may use.
        memory (`int`, *optional*): Bytes of the host.
        gpus (`tuple[str, ...]`): Names of the GPUs.
        gpu_memory (`int`, *optional*): Bytes of the first GPU.
        bf16 (`bool`, *optional*): Whether the GPU computes in bf16; `None` without a GPU.
        compiler (`str`, *optional*): Path of a C++ compiler.
        ninja (`bool`): Whether ninja is installed, which builds C++ code.
        triton (`bool`): Whether Triton is installed, which builds GPU kernels.
        gloo, nccl (`bool`): Whether torch has these backends, for several processes on CPUs and on NVIDIA GPUs.
    """

    cores: int
    memory: int | None = None
    gpus: tuple[str, ...] = ()
    gpu_memory: int | None = None
    bf16: bool | None = None
    compiler: str | None = None
    ninja: bool = False
    triton: bool = False
    gloo: bool = False
    nccl: bool = False


def this_machine() -> Machine:
    """Inspects the machine that this runs on."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu_memory, memory = found_memory(on_cpu=not gpus)
    distributed = torch.distributed
    there = distributed.is_available()
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=memory,
        gpus=tuple(torch.cuda.get_device_name(number) for number in range(gpus)),
        gpu_memory=gpu_memory,
        bf16=gpu_has_bf16(),
        compiler=shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++") or shutil.which("clang++"),
        ninja=importlib.util.find_spec("ninja") is not None or shutil.which("ninja") is not None,
        triton=importlib.util.find_spec("triton") is not None,
        gloo=there and distributed.is_gloo_available(),
        nccl=there and distributed.is_nccl_available(),
    )
