"""
Checks that everything runs on this GPU: tests, exactness, launches and the plan, each with a time limit and a verdict.

    python benchmarks/gpu_check.py --output outputs/gpu_check                          # all checks, one after the other
    python benchmarks/gpu_check.py --model DIR --check launch zero3_offload fsdp2      # some of them, on a real model
    python benchmarks/gpu_check.py --device cpu --shape tiny                           # a trial on a CPU

Each check runs in its own process and writes `NAME.log` and its result, `NAME.json`, into the output folder. The table
is saved there, too. A check that the machine cannot run is skipped, with the reason. The exit code is 1 if a check
failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
# In order of importance: a later one is useless if an earlier one fails.
CHECKS = {
    "tests": "tests marked `gpu`",
    "rewards": "rewards of shared prompts and of texts one by one",
    "curves": "loss curves, shared and plain",
    "determinism": "two runs with full_determinism, bit for bit",
    "recipes": "the tiny recipes",
    "qwen3": "the Qwen3 recipe on --model, or on a tiny model",
    "launch": "one process: the reference for the engines",
    "zero3_offload": "ZeRO-3 with offload, one process",
    "fsdp2": "FSDP 2, one process",
    "qlora": "QLoRA",
    "plan-full": "plan and measured memory: all weights",
    "plan-checkpointing": "plan and measured memory: activation checkpointing",
    "plan-lora": "plan and measured memory: LoRA",
}
# Seconds; `--time-limit` sets another limit for all. Where imports take 12 s a process, the tests and recipes start many;
# an engine that is checked alone first makes the run that it is compared with, which is two more launches.
TIME_LIMIT = 280.0
TIME_LIMITS = {"tests": 560.0, "recipes": 420.0, "zero3_offload": 480.0, "fsdp2": 480.0}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_check"), help="folder for the results")
    parser.add_argument(
        "--check", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="checks to run (default: all)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument(
        "--model", default=None, help="folder of a real causal LM for the launches (default: a tiny one)"
    )
    parser.add_argument(
        "--shape", default="1B", help="size of the model for exactness and plan: a key of speed.contenders.SHAPES"
    )
    parser.add_argument(
        "--data", type=Path, default=None, help="folder of the released files (default: generated rows)"
    )
    longer = ", ".join(f"{name} {seconds:.0f}" for name, seconds in TIME_LIMITS.items())
    parser.add_argument(
        "--time-limit", type=float, default=None, help=f"seconds per check (default: {TIME_LIMIT:.0f}; {longer})"
    )
    parser.add_argument("--run", default=None, help=argparse.SUPPRESS)  # one check, in this process
    args = parser.parse_args(argv)
    args.output = args.output.resolve()
    return args


def main(argv: list[str] | None = None) -> None:
    """Runs the checks, prints the verdict of each, and prints the table at the end."""
    args = parse(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.run:
        run_here(args)
        return
    verdicts = {}
    for name in args.check:
        command = [sys.executable, __file__, *(argv if argv is not None else sys.argv[1:]), "--run", name]
        verdicts[name] = supervise(name, command, args.output, limit_of(name, args.time_limit))
        print(f"{name}: {verdicts[name]['verdict']}, {verdicts[name]['seconds']:.0f} s. {verdicts[name]['detail']}")
        sys.stdout.flush()
        (args.output / "table.md").write_text(table(verdicts), encoding="utf-8")
    print(table(verdicts))
    sys.exit(any(found["verdict"] == "failed" for found in verdicts.values()))


def limit_of(name: str, asked: float | None) -> float:
    """Seconds of a check: those asked for, or else its own."""
    return TIME_LIMITS.get(name, TIME_LIMIT) if asked is None else asked


def supervise(name: str, command: list[str], folder: Path, time_limit: float) -> dict[str, object]:
    """
    Runs the command of a check and reads its result.

    Args:
        name (`str`): Name of the check, which writes its result to `NAME.json`.
        command (`list[str]`): The command. It is killed with its children when the time is up.
        folder (`Path`): Folder for result and log.
        time_limit (`float`): Time limit in seconds.

    Returns:
        `dict`: `verdict` (`passed`, `failed`, `skipped`), `detail` in words, `seconds`.
    """
    answer, log, began = folder / f"{name}.json", folder / f"{name}.log", time.monotonic()
    answer.unlink(missing_ok=True)
    with log.open("w") as printed:
        child = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)
        try:
            code: int | None = child.wait(time_limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(child)
    found: dict[str, object] = {"verdict": "failed"}
    if code is None:
        found["detail"] = f"not done after {time_limit:.0f} s; see {log}."
    elif answer.exists():
        found = json.loads(answer.read_text(encoding="utf-8"))
    else:
        found["detail"] = f"ended with exit code {code} without an answer; see {log}."
    found["seconds"] = time.monotonic() - began
    answer.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def end_group(child: subprocess.Popen) -> None:
    """Kills the process group of a child: the child and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run_here(args: argparse.Namespace) -> None:
    """Runs one check in this process and writes its result. An exception counts as a failure."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from speed.gpu import checks

    try:
        verdict, detail = checks.run(args.run, args)
    except Exception as error:
        traceback.print_exc()
        verdict, detail = "failed", f"{type(error).__name__}: {str(error).strip()[:400]}"
    text = json.dumps({"verdict": verdict, "detail": detail}, indent=1) + "\n"
    (args.output / f"{args.run}.json").write_text(text, encoding="utf-8")


def table(verdicts: dict[str, dict[str, object]]) -> str:
    """The verdicts as a Markdown table."""
    lines = ["| check | verdict | s | |", "|---|---|---|---|"]
    for name, found in verdicts.items():
        detail = str(found["detail"]).replace("\n", " ").replace("|", "/")
        lines.append(f"| {CHECKS.get(name, name)} | {found['verdict']} | {found['seconds']:.0f} | {detail} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
