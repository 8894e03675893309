"""The tables of the GPU benchmark, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from .flops import Work, mfu, model_flops
from .sides import Side


def markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table under a heading."""
    lines = [f"\n### {title}\n", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n" + (f"\n{note}\n" if note else "")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, minimum and maximum, formatted."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def rate(run: dict[str, Any]) -> float:
    """Pairs per second of wall time."""
    return run["pairs"] / sum(run["seconds"])


def ratios(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> list[float]:
    """How many times faster than `base` each repeat is."""
    return [rate(one) / rate(other) for one, other in zip(runs, base)]


def speed_rows(
    sides: dict[str, Side],
    runs: dict[str, list[dict[str, Any]]],
    sizes: dict[str, int],
    config: Any,
    distinct: dict[bool, tuple[Work, int]],
    peak_tflops: float,
    *,
    backward: bool,
    bases: Sequence[str],
) -> list[list[str]]:
    """
    One row per side: micro-batch, speed, ratio to each of `bases`, tokens, MFU, busy share, memory, start.

    Args:
        sides (`dict[str, Side]`): Sides by name.
        runs (`dict[str, list]`): Finished repeats of each side.
        sizes (`dict[str, int]`): Pairs per micro-batch of each side.
        config (`LlamaConfig`): Sizes of the model.
        distinct (`dict[bool, tuple[Work, int]]`): By whether the last MLP is trimmed: work of computing each distinct
            token once, and number of pairs.
        peak_tflops (`float`): Peak of the card.
        backward (`bool`): Whether the runs are training.
        bases (`Sequence[str]`): Sides that the others are compared with.
    """
    rows = []
    for name, side in sides.items():
        found = runs.get(name, [])
        if not found:
            continue
        work, pairs = distinct[side.shares]
        needed = model_flops(config, work, backward=backward) / pairs
        useful = [mfu(needed * run["pairs"], sum(run["seconds"]), peak_tflops) for run in found]
        computed = [
            mfu(model_flops(config, Work(**run["work"]), backward=backward), sum(run["seconds"]), peak_tflops)
            for run in found
        ]
        tokens = median(run["work"]["tokens"] / run["pairs"] for run in found)
        filled = found[-1].get("filled")
        busy = [run["busy"] for run in found if "busy" in run]
        first = [run["first_step"] for run in found if "first_step" in run]
        peak = max(run["peak"] for run in found)
        others = [runs.get(base, []) for base in bases]
        against = ["1" if base is found else spread(ratios(found, base)) if base else "" for base in others]
        rows.append(
            [
                name,
                filled or f"{sizes[name]} pairs",
                f"{median(map(rate, found)):.1f}",
                *against,
                f"{tokens:.0f}",
                f"{tokens * pairs / distinct[False][0].tokens:.2f}",
                f"{median(useful):.1%}",
                f"{median(computed):.1%}",
                f"{busy[0]:.0%}" if busy else "",
                f"{peak / 2**30:.1f}" if peak else "",
                f"{first[0]:.1f}" if first else "",
            ]
        )
    return rows


def speed_head(bases: Sequence[str]) -> list[str]:
    """The column headings of [`speed_rows`]."""
    return [
        "side",
        "micro-batch",
        "pairs/s, wall",
        *(f"x {base}" for base in bases),
        "tokens a pair",
        "x distinct",
        "MFU, distinct tokens",
        "MFU, computed tokens",
        "device busy",
        "peak GiB",
        "s to the end of step 1",
    ]


def profile_tables(name: str, profile: dict[str, Any], unprofiled: float) -> str:
    """Tables of where device and host time of one step went."""
    seconds, busy = profile["seconds"], profile["busy"]
    note = (
        f"{profile['kernels']} kernels or operators; one step took {seconds:.3f} s under the profiler and {unprofiled:.3f} s "
        f"without it; the device (on a CPU: operators) was busy for {busy:.3f} s."
    )
    kinds = [[kind, f"{1e3 * value:.1f}", f"{value / busy:.0%}"] for kind, value in profile["kinds"].items()]
    text = markdown(f"One step of {name}: the device's time", ("what", "ms", "of all"), kinds, note)
    host = [[kind, f"{1e3 * value:.1f}"] for kind, value in profile["host"].items()]
    if host:
        title = f"One step of {name}: the host's time"
        text += markdown(title, ("what", "ms"), host, f"{profile['launches']} launches.")
    names = [[f"`{kernel.replace('|', '/')}`", f"{1e3 * value:.1f}"] for kernel, value in profile["names"]]
    return text + markdown(f"One step of {name}: what takes longest", ("kernel or operator", "ms"), names)
