"""
Kills the tiny recipe at random moments, resumes it, and compares the end with that of a run that nothing happened to.

    python benchmarks/kills.py --kills 20                  # one process
    python benchmarks/kills.py --kills 5 --processes 2     # DDP on two CPU processes, a random one of which is killed

Every kill is a SIGKILL at a moment drawn from all of training, saving and evaluation included; every resume is
`--resume_from_checkpoint auto`. Equal means: every byte of the exported weights, every logged number and
`final_eval_results.json`. Exits with 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import runpy
import shutil
import socket
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
import transformers

import rm_toolkit.trainer  # noqa: F401  once, instead of in every run
from rm_toolkit.console import console, print_table
from rm_toolkit.manifest import find_checkpoint, read_manifest


RECIPE = Path(__file__).parents[1] / "recipes" / "grft.py"
FLAGS = {
    "lm_loss_coef": 0.1,
    "num_train_epochs": 1,
    "max_length": 64,
    "eval_datasets": '{"webgpt": {"path": "data/samples/webgpt.test.jsonl", "source": "webgpt"}}',
    "logging_steps": 3,
    "eval_steps": 7,
    "save_strategy": "steps",
    "save_steps": 5,
    "save_total_limit": 2,
    "use_cpu": "true",
    "disable_tqdm": "true",
    "cpu_threads": 1,
    "per_device_train_batch_size": 4,
}
SPEEDS = ("runtime", "per_second")
NOT_BEGUN = -1.0


class Clock(transformers.TrainerCallback):
    """Tells the process that kills where the run is."""

    step: Synchronized

    def on_train_begin(self, args, state, control, **kwargs):
        Clock.step.value = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        Clock.step.value = state.global_step


def main() -> int:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many runs are killed")
    parser.add_argument("--processes", type=int, default=1, help="processes of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    Clock.step = multiprocessing.get_context("fork").Value("d", NOT_BEGUN)
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        work = Path(temporary)
        seconds, steps = run(work, "whole", options.processes), Clock.step.value
        engine = re.search(r"Engine (.+?) process", (work / "whole.log").read_text(encoding="utf-8"))
        wrote = read_manifest(str(find_checkpoint(work / "whole")[0]))["num_processes"]
        if engine is None or wrote != options.processes:
            sys.exit(f"{options.processes} process(es) were asked for, {wrote} ran: nothing would be shown")
        console.print(f"Engine {engine[1]} process(es), as the run itself says", highlight=False)
        expected = ending(work / "whole")
        rows, good = [], True
        for number in range(options.kills):
            moment = rng.uniform(0, steps)
            victim = rng.randrange(options.processes)
            killed = run(work, "killed", options.processes, (moment, seconds / steps), victim)
            resumed = find_checkpoint(work / "killed")[0]
            run(work, "killed", options.processes)
            equal = [found == wanted for found, wanted in zip(ending(work / "killed"), expected)]
            good = good and all(equal)
            start = resumed.rpartition("-")[2] if resumed else "the start"
            rows.append(
                [str(number + 1), f"{moment:.2f}", f"{killed:.0f}", start, *("yes" if e else "NO" for e in equal)]
            )
            console.print(" ".join(rows[-1]), highlight=False)
            shutil.rmtree(work / "killed")
    print_table(["kill", "moment (steps)", "at step", "resumed from", "weights", "logs", "results"], rows)
    return 0 if good else 1


def run(
    work: Path, name: str, num_processes: int, kill_at: tuple[float, float] | None = None, victim: int = 0
) -> float:
    """
    Runs the recipe in processes of its own.

    Args:
        work (`Path`): Where everything is written.
        name (`str`): Output folder in it.
        num_processes (`int`): Processes of the run.
        kill_at (`tuple`, *optional*): Step, whose fraction is waited in the step, and the seconds a step takes on
            average; `None` lets the run end by itself.
        victim (`int`): Rank that is killed.

    Returns:
        `float`: Seconds of training, or the step at which it was killed.
    """
    Clock.step.value = NOT_BEGUN
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=train, args=(work, name, rank, num_processes, port)) for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    while Clock.step.value == NOT_BEGUN and processes[0].is_alive():
        time.sleep(0.01)
    begin = end = time.monotonic()
    if kill_at is None:
        last = 0.0
        while processes[0].is_alive():
            if Clock.step.value != last:
                last, end = Clock.step.value, time.monotonic()
            processes[0].join(0.02)
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(f"a run ended with {[process.exitcode for process in processes]}: see {work / f'{name}.log'}")
        return end - begin
    whole, fraction = divmod(kill_at[0], 1)
    while Clock.step.value < whole and processes[victim].is_alive():
        time.sleep(0.005)
    processes[victim].join(fraction * kill_at[1])
    step = Clock.step.value
    processes[victim].kill()
    for process in processes:
        process.join(120)
    if not all(process.exitcode for process in processes):
        sys.exit(f"a killed run ended with {[process.exitcode for process in processes]}")
    return step


def train(work: Path, name: str, rank: int, num_processes: int, port: int) -> None:
    """The recipe, as `python recipes/grft.py` runs it."""
    if num_processes > 1:
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
        os.environ.update({key: str(value) for key, value in world.items()} | {"MASTER_ADDR": "127.0.0.1"})
        os.environ["MASTER_PORT"] = str(port)
    if rank == 0:
        transformers.trainer.DEFAULT_CALLBACKS.append(Clock)
    log = os.open(work / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    flags = FLAGS | {
        "output_dir": work / name,
        "model_name_or_path": work / "tiny",
        "dataset_cache_dir": work / "cache",
    }
    flags |= {"resume_from_checkpoint": "auto"}
    sys.argv = [str(RECIPE), *(str(word) for key, value in flags.items() for word in (f"--{key}", value))]
    os.chdir(RECIPE.parents[1])
    code = 0
    try:
        runpy.run_path(str(RECIPE), run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    sys.stdout.flush()
    os._exit(code)


def ending(folder: Path) -> tuple[bytes, list[dict[str, Any]], str]:
    """Weights, logs without speeds, and results of a finished run."""
    newest = find_checkpoint(folder)[0]
    logs = json.loads(Path(str(newest), "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    logs = [{key: value for key, value in log.items() if not key.endswith(SPEEDS)} for log in logs]
    weights = b"".join((folder / name).read_bytes() for name in ("model.safetensors", "lm_head/model.safetensors"))
    return weights, logs, (folder / "final_eval_results.json").read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
