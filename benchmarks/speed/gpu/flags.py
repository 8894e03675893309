"""Flags of the GPU benchmark, and its parts in the order in which they run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


PARTS = (
    "search-dsp",
    "train-dsp",
    "features-dsp",
    "kernels-dsp",
    "search-helpful",
    "train-helpful",
    "evaluate-dsp",
    "evaluate-helpful",
    "score",
    "memory",
    "profile",
)
# Most sides that a part runs, each in a process of its own; by the first word of the part's name.
SIDES_AT_ONCE = {
    "search": 4,
    "train": 4,
    "features": 4,
    "kernels": 4,
    "evaluate": 3,
    "score": 1,
    "memory": 4,
    "profile": 2,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the GPU benchmark."""
    group = parser.add_argument_group("the GPU benchmark (--device cuda, or --part on a CPU)")
    group.add_argument("--part", nargs="+", choices=PARTS, default=None, help="parts to run (default: all, in order)")
    group.add_argument(
        "--data", type=Path, default=None, help="folder of the released files (default: generated rows)"
    )
    group.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 peak of the card (default: H100 SXM)")
    group.add_argument("--time-limit", type=float, default=265.0, help="seconds per part")
    group.add_argument("--steps", type=int, default=6, help="optimizer steps per timed run; the first is not counted")
    group.add_argument("--pairs-per-step", type=int, default=64, help="pairs per optimizer step")
    group.add_argument("--micro-batches", nargs="+", type=int, default=[8, 16, 32, 64], help="sizes to try")
    group.add_argument("--score-rows", type=int, default=2000, help="rows in the scoring part")
    group.add_argument("--in-process", action="store_true", help="run all sides in this process (for tests)")


def processes_of(part: str, threads: int | None) -> tuple[int, int]:
    """
    How many processes a part starts at once, and the CPU threads of each.

    Args:
        part (`str`): One of `PARTS`.
        threads (`int`, *optional*): `--threads`; by default, the processes share the cores evenly.
    """
    number = SIDES_AT_ONCE[part.partition("-")[0]]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return number, threads or max(1, cores // number)
