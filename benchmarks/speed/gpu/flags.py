"""Flags of the GPU benchmark, and its parts in the order in which they are run."""

from __future__ import annotations

import argparse
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the GPU benchmark."""
    group = parser.add_argument_group("the GPU benchmark (--device cuda, or --part on a CPU)")
    group.add_argument("--part", nargs="+", choices=PARTS, default=None, help="default: all, one after the other")
    group.add_argument("--data", type=Path, default=None, help="folder of the released files; else rows are made")
    group.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 peak of the card; 989: H100 SXM")
    group.add_argument("--time-limit", type=float, default=265.0, help="seconds of a part")
    group.add_argument("--steps", type=int, default=6, help="optimizer steps of a timed run, the first not counted")
    group.add_argument("--pairs-per-step", type=int, default=64, help="pairs of an optimizer step")
    group.add_argument("--micro-batches", nargs="+", type=int, default=[8, 16, 32, 64], help="sizes that are tried")
    group.add_argument("--score-rows", type=int, default=2000, help="rows of the scoring part")
    group.add_argument("--in-process", action="store_true", help="all sides in this process: for tests")
