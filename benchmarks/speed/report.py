"""The tables of the CPU benchmark, in Markdown."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path

import torch

from .contenders import TRL, TRL_GROUPED
from .measure import Timing


def machine(device: str) -> str:
    """Name of the processor or GPU, and versions of the libraries."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = f"{models[0]}, {len(models)} cores" if models else name
    if device == "cuda":
        name = torch.cuda.get_device_name()
    import transformers
    import trl

    return f"{name}; torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"


def header(command: str, device: str, shape: str, threads: int, sources: str) -> str:
    """The lines above the tables: what was run, where and when."""
    return (
        f"`{command}`, {date.today().isoformat()}  \n{machine(device)}; {threads} thread(s)  \n"
        f"Llama {shape}, random weights; rows: {sources}. Ratios are medians over interleaved repeats (least to most); "
        "CPU is process CPU time.\n"
    )


def timing_table(title: str, timings: dict[str, Timing], distinct: int | None = None) -> str:
    """A table with a row per side: rates, ratios to TRL with and without grouping by length, tokens and padding."""
    base, grouped = timings.get(TRL), timings.get(TRL_GROUPED)
    lines = [
        f"\n### {title}\n",
        "| side | pairs/s, wall | pairs/s, CPU | x TRL, wall | x TRL, CPU | x TRL by length, CPU | tokens a pair | "
        "padding | token ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for side, timing in timings.items():
        cells = [side, f"{timing.rate('wall'):.2f}", f"{timing.rate('cpu'):.2f}"]
        cells += [_ratio(timing, base, "wall"), _ratio(timing, base, "cpu"), _ratio(timing, grouped, "cpu")]
        if timing.computed:
            cells += [f"{timing.computed / timing.pairs:.0f}", f"{1 - timing.useful / timing.computed:.0%}"]
            cells.append(f"{timing.computed / distinct:.2f}" if distinct else "")
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ratio(timing: Timing, base: Timing | None, clock: str) -> str:
    if base is None or base is timing:
        return "1" if base is timing else ""
    middle, least, most = timing.ratio(base, clock)
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def planned_table(name: str, tokens: dict[str, float]) -> str:
    """A table of tokens per pair over the whole set by side, and their ratio to the distinct tokens."""
    least = next(iter(tokens.values()))
    lines = [f"\n### Tokens over all of {name}\n", "| batching | tokens a pair | token ratio |", "|---|---|---|"]
    lines += [f"| {side} | {value:.0f} | {value / least:.2f} |" for side, value in tokens.items()]
    return "\n".join(lines) + "\n"


def memory_table(title: str, mebibytes: dict[str, float]) -> str:
    """A table of the peak memory of each side, and its ratio to the first."""
    first = next(iter(mebibytes.values()))
    lines = [f"\n### {title}\n", "| side | MiB | x TRL |", "|---|---|---|"]
    lines += [f"| {side} | {value:.0f} | {value / first:.2f} |" for side, value in mebibytes.items()]
    return "\n".join(lines) + "\n"


def flops_table(rates: dict[str, float]) -> str:
    """A table of FLOP/s: the fast path, a stock unpadded batch and a matrix product."""
    return (
        "\n### FLOP/s, forward and backward\n\nThe FLOPs of every token in every layer; what the fast path skips in "
        "its last layer counts as computed.\n\n| | GFLOP/s | fast against it |\n|---|---|---|\n"
        + "\n".join(f"| {name} | {rate:.1f} | {rates['fast'] / rate:.2f} |" for name, rate in rates.items())
        + "\n"
    )
