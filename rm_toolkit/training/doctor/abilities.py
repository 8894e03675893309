"""Which engines and kernels work on a machine, and what the others need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...models.shared_prompts.segment_attention import HAS_FLASH
from ...models.shared_prompts.varlen_attention import kernel_for
from .machine import Machine


# The engines by the kind of a launch config; see [`~rm_toolkit.training.plan.launch.Launch`].
ZERO = ("zero2", "zero3")


@dataclass(frozen=True)
class Ability:
    """
    Something that a machine can or cannot do.

    Args:
        name (`str`): Its name.
        missing (`str`): What is missing; empty if it works.
        remark (`str`): What implements it.
    """

    name: str
    missing: str = ""
    remark: str = ""


def engine_missing(machine: Machine, kind: str, *, on_cpu: bool, offload: bool, processes: int, has: Callable) -> str:
    """
    What an engine needs that is missing here; empty if it works.

    Args:
        machine (`Machine`): From [`~rm_toolkit.training.doctor.machine.this_machine`].
        kind (`str`): As in [`~rm_toolkit.training.plan.launch.Launch`].
        on_cpu (`bool`): Whether it computes on CPUs.
        offload (`bool`): Whether the optimizer runs on the host.
        processes (`int`): Processes of this machine.
        has (`Callable`): Whether a package, by name, is installed.
    """
    missing = []
    if kind == "fsdp2" and not machine.gpus:
        missing.append("a GPU (accelerate has no FSDP on CPUs)")
    elif not on_cpu and kind != "fsdp2" and not machine.gpus:
        missing.append("a GPU")
    elif not on_cpu and len(machine.gpus) < processes:
        missing.append(f"{processes} GPUs ({len(machine.gpus)} here)")
    if processes > 1 and not (machine.gloo if on_cpu else machine.nccl):
        missing.append(f"a torch with {'gloo' if on_cpu else 'NCCL'}")
    if kind in ZERO and not has("deepspeed"):
        missing.append("deepspeed (pip install deepspeed)")
    if kind in ZERO and offload:
        missing += [] if machine.compiler else ["a C++ compiler (g++), with which DeepSpeed builds its Adam"]
        missing += [] if machine.ninja else ["ninja (pip install ninja), with which DeepSpeed builds its Adam"]
    return "; ".join(missing)


def engines(machine: Machine, has: Callable) -> list[Ability]:
    """The engines of `accelerate_configs/`, on CPUs and on GPUs."""
    asked = [
        ("one process on the CPU", "none", True, False, 1),
        ("several processes on CPUs (DDP)", "ddp", True, False, 2),
        ("ZeRO-3 with offload on CPUs", "zero3", True, True, 2),
        ("one GPU", "none", False, False, 1),
        ("several GPUs (DDP)", "ddp", False, False, 2),
        ("ZeRO-2 and ZeRO-3 on GPUs", "zero3", False, False, 1),
        ("ZeRO-3 with offload to the host", "zero3", False, True, 1),
        ("FSDP 2", "fsdp2", False, False, 2),
    ]
    return [
        Ability(name, engine_missing(machine, kind, on_cpu=cpu, offload=offload, processes=number, has=has))
        for name, kind, cpu, offload, number in asked
    ]


def kernels(machine: Machine, has: Callable) -> list[Ability]:
    """What needs special kernels: shared prompts, compiled layers, Liger, 4 bits, bf16."""
    gpu = bool(machine.gpus)
    compilers = [] if machine.compiler else ["a C++ compiler (g++)"]
    compilers += ["Triton (pip install triton)"] * (gpu and not machine.triton)
    no_gpu = "" if gpu else "a GPU"
    liger = [] if gpu else ["a GPU"]
    liger += [] if has("liger-kernel") else ['liger-kernel (pip install -c constraints.txt -e ".[gpu]")']
    bits = "" if has("bitsandbytes") else 'bitsandbytes (pip install -c constraints.txt -e ".[qlora]")'
    return [
        Ability("prompts computed once, on the CPU", remark=_cpu_attention()),
        Ability("prompts computed once, on a GPU", no_gpu, _gpu_attention() if gpu else ""),
        Ability("bf16 on a GPU", no_gpu or ("" if machine.bf16 else "a GPU with bf16 (Ampere or later)")),
        Ability("torch_compile", "; ".join(compilers)),
        Ability("use_liger_kernel", "; ".join(liger)),
        Ability("load_in_4bit (QLoRA)", bits),
    ]


def _cpu_attention() -> str:
    return "attention by blocks of prompts and responses" if HAS_FLASH else "stock attention, sequence by sequence"


def _gpu_attention() -> str:
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    flash = kernel_for("cuda", dtype, 64, 64) is not None
    return (
        ("FlashAttention in 16 bits, " if flash else "") + "FlexAttention in fp32" + ("" if flash else " and 16 bits")
    )
