"""The checks of `benchmarks/gpu_check.py`. Each returns a verdict (`passed`, `failed`, `skipped`) and what it found."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable

from . import launches
from .exactness import compare_curves, compare_rewards
from .planned import compare_plan


Verdict = tuple[str, str]


def run(name: str, args: argparse.Namespace) -> Verdict:
    """
    Runs one check.

    Args:
        name (`str`): A key of `gpu_check.CHECKS`.
        args (`argparse.Namespace`): Its command line.
    """
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "skipped", "no CUDA device is available here"
    return CHECKS[name](args)


def tests(args: argparse.Namespace) -> Verdict:
    """The tests marked `gpu`."""
    if args.device == "cpu":
        return "skipped", "the tests marked `gpu` need one"
    if importlib.util.find_spec("pytest") is None:
        return "skipped", "pytest is not installed"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-rs", "tests"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return verdict_of_tests(done.returncode, done.stdout)


def verdict_of_tests(returncode: int, printed: str) -> Verdict:
    """Reads pytest's counts: tests that were all skipped have shown nothing."""
    counts = [line.strip("= ") for line in printed.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    last = counts[-1] if counts else f"pytest ended with exit code {returncode}"
    reasons = re.findall(r"^SKIPPED .*?: (.*)$", printed, re.MULTILINE)
    said = last + (f"; skipped: {', '.join(dict.fromkeys(reasons))}" if reasons else "")
    if returncode != 0:
        return "failed", said
    return ("passed" if re.search(r"\d+ passed", last) else "skipped"), said


def zero3_offload(args: argparse.Namespace) -> Verdict:
    """DeepSpeed's ZeRO-3 with offload, on one process."""
    if importlib.util.find_spec("deepspeed") is None:
        return "skipped", "deepspeed is not installed"
    return launches.compare_engine(args, "zero3_offload")


def fsdp2(args: argparse.Namespace) -> Verdict:
    """FSDP 2 on one process."""
    if args.device == "cpu":
        return "skipped", "FSDP shards over GPUs"
    return launches.compare_engine(args, "fsdp2")


def qlora(args: argparse.Namespace) -> Verdict:
    """An adapter on a base in 4 bits."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "skipped", "bitsandbytes is not installed"
    return launches.qlora(args)


CHECKS: dict[str, Callable[[argparse.Namespace], Verdict]] = {
    "tests": tests,
    "rewards": compare_rewards,
    "curves": compare_curves,
    "determinism": launches.compare_repeats,
    "recipes": launches.default_recipes,
    "qwen3": launches.qwen3,
    "launch": launches.one_process,
    "zero3_offload": zero3_offload,
    "fsdp2": fsdp2,
    "qlora": qlora,
    "plan-full": lambda args: compare_plan(args, "full"),
    "plan-checkpointing": lambda args: compare_plan(args, "checkpointing"),
    "plan-lora": lambda args: compare_plan(args, "lora"),
}
