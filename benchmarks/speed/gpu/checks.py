"""The checks of `benchmarks/gpu_check.py`. Each returns a verdict (`passed`, `failed`, `skipped`) and details."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import launches
from .exactness import compare_curves, compare_rewards
from .planned import compare_plan


Verdict = tuple[str, str]


def run(name: str, args: argparse.Namespace) -> Verdict:
    """
    Runs one check.

    Args:
        name (`str`): A key of `gpu_check.CHECKS`.
        args (`argparse.Namespace`): The parsed command line.
    """
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "skipped", "no CUDA device is available here"
    return CHECKS[name](args)


def tests(args: argparse.Namespace) -> Verdict:
    """Runs the tests marked `gpu`, and prints what pytest says as it says it, so that a log cut short has it, too."""
    if args.device == "cpu":
        return "skipped", "the tests marked `gpu` need one"
    if importlib.util.find_spec("pytest") is None:
        return "skipped", "pytest is not installed"
    options = ["-m", "gpu", "-p", "no:cacheprovider", "-rs", "--durations=10"]
    command = [sys.executable, "-m", "pytest", *options, *marked_files(launches.ROOT / "tests")]
    printed = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=launches.ROOT
    ) as child:
        for line in child.stdout or ():
            print(line, end="", flush=True)
            printed.append(line)
    return verdict_of_tests(child.returncode, "".join(printed))


def marked_files(folder: Path) -> list[str]:
    """
    The test files that mark a test as `gpu`. The others need not be collected, which takes longer than these tests do.
    """
    files = sorted(folder.rglob("test_*.py"))
    return [str(path) for path in files if re.search(r"\bmark\.gpu\b", path.read_text(encoding="utf-8"))]


def verdict_of_tests(returncode: int, printed: str) -> Verdict:
    """Derives the verdict from pytest's counts. If all tests were skipped, so is the check."""
    counts = [line.strip("= ") for line in printed.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    last = counts[-1] if counts else f"pytest ended with exit code {returncode}"
    reasons = re.findall(r"^SKIPPED .*?: (.*)$", printed, re.MULTILINE)
    said = last + (f"; skipped: {', '.join(dict.fromkeys(reasons))}" if reasons else "")
    if returncode != 0:
        return "failed", said
    return ("passed" if re.search(r"\d+ passed", last) else "skipped"), said


def zero3_offload(args: argparse.Namespace) -> Verdict:
    """Compares DeepSpeed's ZeRO-3 with offload, on one process, with a plain run."""
    if importlib.util.find_spec("deepspeed") is None:
        return "skipped", "deepspeed is not installed"
    return launches.compare_engine(args, "zero3_offload")


def fsdp2(args: argparse.Namespace) -> Verdict:
    """Compares FSDP 2, on one process, with a plain run."""
    if args.device == "cpu":
        return "skipped", "FSDP shards over GPUs"
    return launches.compare_engine(args, "fsdp2")


def qlora(args: argparse.Namespace) -> Verdict:
    """Trains an adapter on a 4-bit base model."""
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
