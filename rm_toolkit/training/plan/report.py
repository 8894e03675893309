"""Prints a plan: the table, what dominates, whether it fits, and what to change."""

from __future__ import annotations

import os

import torch

from ...errors import InputError
from ...output.console import console, print_table
from ..weight_bytes import weight_bytes
from .launch import Launch
from .plan import RunPlan


GIB = 2**30
UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
# What to change, by the largest item.
REMEDIES = {
    "parameters": "shard them (ZeRO-3 or FSDP2), offload them, or train an adapter on 4 bits (--use_peft --load_in_4bit)",
    "gradients": "shard them (ZeRO-2, ZeRO-3, FSDP2), or train an adapter (--use_peft)",
    "optimizer states": "shard them (ZeRO-2, ZeRO-3, FSDP2), offload them, or train an adapter (--use_peft)",
    "the optimizer's own weights": "offload them (zero3_offload.yaml), or train an adapter (--use_peft)",
    "gathered layers and buckets": "use a DeepSpeed config with smaller `reduce_bucket_size` and "
    "`stage3_max_live_parameters`",
    "activations kept for the backward pass": "set gradient_checkpointing: true, or a smaller per_device_train_batch_size "
    "(max_tokens_per_batch), or a smaller max_length",
    "the rest of the backward pass": "use a smaller per_device_train_batch_size (max_tokens_per_batch) or max_length",
    "the optimizer's step": "set optim: adamw_torch_fused",
}


def parse_size(text: str, name: str) -> int:
    """
    Reads `80GiB`, `80GB` or a number of bytes.

    Raises:
        `InputError`: naming the flag.
    """
    lower = text.strip().lower()
    unit = next((unit for unit in UNITS if lower.endswith(unit)), "")
    try:
        size = float(lower.removesuffix(unit)) * UNITS.get(unit, 1)
    except ValueError:
        size = 0
    if size <= 0:
        raise InputError(f"`{name}` is '{text}', which is not a size. Write it like 80GiB.")
    return int(size)


def found_memory(on_cpu: bool) -> tuple[int | None, int | None]:
    """Memory of the first GPU here (None without one) and of this host, in bytes."""
    gpu = None
    if not on_cpu and torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0).total_memory
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return gpu, host


def size(number: float) -> str:
    """`1.50 GiB`, or MiB below a tenth of that."""
    return f"{number / GIB:,.2f} GiB" if number >= GIB / 10 else f"{number / 2**20:,.1f} MiB"


def count(number: float) -> str:
    """`6.61 B`, `12.0 M`, `840`."""
    for unit, scale in (("B", 1e9), ("M", 1e6)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number:,.0f}"


def print_plan(plan: RunPlan, gpu_memory: int | None, host_memory: int | None) -> bool | None:
    """
    Prints table, arithmetic and verdict.

    Args:
        plan (`RunPlan`): From [`~rm_toolkit.training.plan.plan.make_plan`].
        gpu_memory (`int`, *optional*): Bytes of each GPU; `None` if unknown.
        host_memory (`int`, *optional*): Bytes of each host.

    Returns:
        `bool` or `None`: Whether it fits; `None` where that is not known.
    """
    launch = plan.launch
    where = "each process" if launch.on_cpu else "each GPU"
    rows = plan.device_rows
    host = {name: number for name, number in plan.states.host.items() if number}
    names = list(dict.fromkeys([*rows, *host]))
    cells = [
        [name, size(rows[name]) if name in rows else "-", size(host[name]) if name in host else "-"] for name in names
    ]
    if launch.on_cpu:
        cells.append([f"{launch.per_machine} process(es)", "", size(plan.device_total * launch.per_machine)])
    cells.append(["together", size(plan.device_total), size(plan.host_total)])
    print_table(["memory", where, "each host"], cells, title=launch.name)
    for line in explain(plan):
        console.print(line)
    return _verdict(plan, gpu_memory, host_memory)


def explain(plan: RunPlan) -> list[str]:
    """The arithmetic in words."""
    weights, launch = plan.weights, plan.launch
    lines = [
        f"Model: {count(weights.parameters)} parameters, {count(weights.trained)} of them trained; fp32 weights, gradients "
        f"and AdamW's two moments take 4 + 4 + 8 bytes per trained parameter{_more_copies(launch)}.",
        f"Precision: {plan.precision}{'' if plan.precision == 'no' else ', by autocast on fp32 weights'} "
        f"({plan.precision_from}).{_casts(plan)}",
        f"Step: {plan.pairs_per_step} pairs = {launch.num_processes} process(es) x {plan.micro_batches} micro-batch(es) of "
        f"up to {plan.batch}, {plan.layout} layout. Activations are those of one micro-batch, all texts of that "
        "length and nothing shared"
        + ("; each layer is computed again in the backward pass." if plan.recomputes else "."),
    ]
    if launch.kind == "fsdp2" and launch.offload_optimizer:
        lines.append("On the host: 1.5 times the size of the numbers themselves, for pinned blocks.")
    if launch.kind == "zero3":
        lines.append(
            "Gathered layers and buckets: at most 1e9 parameters at a time, and 5e8 gradients (DeepSpeed's defaults)."
        )
    if plan.deepspeed is not None:
        device, host = plan.deepspeed
        lines.append(
            f"For comparison, DeepSpeed's own estimate, which is for 16-bit weights: {size(device)} per GPU, "
            f"{size(host)} per "
            f"host for all {count(weights.parameters)} parameters, without activations and buckets."
        )
    largest = max(plan.device_rows, key=plan.device_rows.get)
    share = plan.device_rows[largest] / plan.device_total
    lines.append(f"Largest item: {largest}, {share:.0%}.")
    return lines


def _more_copies(launch: Launch) -> str:
    held = weight_bytes(launch.launched())
    copies = []
    if held.master:
        copies.append(f"{held.master} more for the weights that the optimizer updates")
    if held.moved:
        copies.append(f"{held.moved} for copies in transit between host and GPU")
    return ", and DeepSpeed " + ", ".join(copies) if copies else ""


def _casts(plan: RunPlan) -> str:
    if plan.precision == "no":
        return ""
    held = weight_bytes(plan.launch.launched())
    if held.cast_once:
        return " The 16-bit copies of the weights, made once per step, count with the activations."
    if held.casts_kept:
        return " The 16-bit copies that autocast makes of the weights count with the activations."
    return " Autocast makes 16-bit copies of one layer's weights at a time."


def _verdict(plan: RunPlan, gpu_memory: int | None, host_memory: int | None) -> bool | None:
    known = []
    if not plan.launch.on_cpu:
        known.append(("a GPU", "--gpu-memory 80GiB", plan.device_total, gpu_memory, plan.device_rows))
    host_rows = plan.device_rows if plan.launch.on_cpu else plan.states.host
    known.append(("the host", "--host-memory 512GiB", plan.host_total, host_memory, host_rows))
    fits: bool | None = True
    for name, flag, needed, there, rows in known:
        if there is None:
            console.print(f"Fits? Unknown: there is none here; pass {flag}. It needs {size(needed)} of {name}.")
            fits = None if fits else fits
            continue
        if needed <= there:
            console.print(f"Fits: {size(needed)} of {size(there)} of {name}, {needed / there:.0%}.")
            continue
        fits = False
        largest = max((row for row in rows if row in REMEDIES), key=rows.get, default=None)
        remedy = f" Largest item: {largest}. To reduce it, {REMEDIES[largest]}." if largest else ""
        console.print(f"Does not fit: {size(needed)} of {size(there)} of {name}.{remedy}")
    return fits


def run_length(
    plan: RunPlan,
    *,
    pairs: int | None,
    steps: int,
    epochs: float,
    tokens_per_pair: float,
    tflops: float | None,
    utilization: float,
) -> list[str]:
    """
    Steps, tokens and hours of training, with the arithmetic.

    Args:
        plan (`RunPlan`): The plan.
        pairs (`int`, *optional*): Training pairs of one epoch.
        steps (`int`): `max_steps`, or not above 0.
        epochs (`float`): `num_train_epochs`.
        tokens_per_pair (`float`): Tokens computed per pair.
        tflops (`float`, *optional*): Peak of one GPU in the precision of the run, in TFLOP/s.
        utilization (`float`): Fraction of that peak that is reached.
    """
    if steps <= 0 and pairs is None:
        return ["Steps: pass --pairs N (training pairs per epoch), or set max_steps, for steps, tokens and hours."]
    if steps <= 0:
        steps = -(-pairs // plan.pairs_per_step) * max(1, round(epochs))
        total = round(pairs * epochs)
    else:
        total = steps * plan.pairs_per_step
    tokens = total * tokens_per_pair
    flops = plan.flops(tokens)
    factor = 8 if plan.recomputes else 6
    lines = [
        f"Length: {steps:,} steps, {total:,} pairs x {tokens_per_pair:g} tokens = {count(tokens)} tokens.",
        f"Work: {factor} x {count(plan.matrix_parameters)} x {count(tokens)} = {flops:.2e} operations"
        f"{' (8: the forward pass is computed twice)' if plan.recomputes else ''}.",
    ]
    if tflops:
        number = plan.launch.num_processes
        hours = flops / (tflops * 1e12 * utilization * number) / 3600
        lines.append(
            f"Hours, an estimate: {flops:.2e} / ({number} x {tflops:g}e12 x {utilization:g}) = {hours:.2f} h of training, "
            "without evaluation, loading, saving and waiting for offloaded data."
        )
    else:
        lines.append(
            "Hours: pass --tflops, the peak of your GPU in the run's precision (bf16: A100 312, H100 989, RTX 4090 165)."
        )
    return lines
