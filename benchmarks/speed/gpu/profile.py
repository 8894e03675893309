"""Where the time of one step goes, on the device and on the host."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch

from .meters import covered, device_events


# Patterns for the names of kernels (GPU) and operators (CPU); the first match counts.
KINDS = {
    "between GPUs": r"nccl",
    "attention": r"flash|fmha|attention|flex|varlen|softmax",
    "matrix products": r"gemm|gemv|cutlass|cublas|nvjet|xmma|wgmma|splitk|aten::(mm|addmm|bmm|baddbmm|linear|matmul)\b",
    "optimizer and clipping": r"multi_tensor|foreach|adam|lpnorm|Optimizer",
    "copies and casts": r"memcpy|memset|copy|_to_copy|convert|cast|CatArray|aten::(copy_|_to_copy|to|cat|clone|contiguous)\b",
    "gathers and scatters": r"index|gather|scatter|embedding",
    "element-wise and reductions": r"elementwise|vectorized|reduce|triton|rms|swiglu|silu|rope|norm|aten::",
}
HOST_CALLS = {
    "launching kernels": r"cudaLaunchKernel|cuLaunchKernel|cudaGraphLaunch",
    "waiting for the device": r"Synchronize|cudaMemcpy(?!Async)|aten::item|_local_scalar_dense",
    "copies asked for": r"cudaMemcpyAsync|cudaMemset",
    "memory": r"cudaMalloc|cudaFree|cudaHostAlloc",
}


def kind_of(name: str, kinds: dict[str, str] = KINDS) -> str:
    """The kind of a kernel, an operator or a host call, by its name."""
    return next((kind for kind, pattern in kinds.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def summary(profile: Any, seconds: float, device: str, num_names: int = 15) -> dict[str, Any]:
    """
    Summarizes a profiled step.

    Args:
        profile (`torch.profiler.profile`): Profile of one step, host activities included.
        seconds (`float`): Duration of that step.
        device (`str`): `"cpu"` or `"cuda"`.
        num_names (`int`): Number of kernels (on a CPU: operators) to list by name.

    Returns:
        `dict`: `seconds`; `busy` seconds of the device; seconds by `kinds` and by `names`; number of `kernels`; `host`
            seconds by kind of call, including calls that wait; number of kernel `launches`.
    """
    averages = profile.key_averages()
    if device == "cuda":
        events = device_events(profile)
        busy = covered([(begin, end) for _, begin, end in events])
        spent = Counter()
        for name, begin, end in events:
            spent[name] += end - begin
        count = len(events)
    else:
        spent = Counter({event.key: event.self_cpu_time_total / 1e6 for event in averages})
        busy, count = sum(spent.values()), sum(event.count for event in averages)
    kinds = Counter()
    for name, value in spent.items():
        kinds[kind_of(name)] += value
    host, launches = Counter(), 0
    for event in averages if device == "cuda" else []:
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue
        host[kind_of(event.key, HOST_CALLS)] += event.self_cpu_time_total / 1e6
        launches += event.count if kind_of(event.key, HOST_CALLS) == "launching kernels" else 0
    names = [(name[:90], value) for name, value in spent.most_common(num_names)]
    return {
        "seconds": seconds,
        "busy": busy,
        "kinds": dict(kinds.most_common()),
        "names": names,
        "kernels": count,
        "host": dict(host.most_common()),
        "launches": launches,
    }
