"""
Kills a run of the tiny recipe at random moments, resumes it, and compares the result with an uninterrupted run.

    python benchmarks/kills.py --kills 20                  # one process
    python benchmarks/kills.py --kills 5 --processes 2     # DDP with two CPU processes; a random one is killed
    python benchmarks/kills.py --kills 5 --processes 2 --deepspeed accelerate_configs/zero3_offload.yaml
    python benchmarks/kills.py --kills 5 --processes 2 --how SIGTERM SIGINT SIGSTOP   # one; all; one for a while

A run gets a SIGKILL, or the signal that `--how` names, at a random moment of training, saving or evaluation, and
resumes with `--resume_from_checkpoint auto`. All its processes must end by themselves within two minutes and print no
traceback. A run that is paused (SIGSTOP) must continue as if nothing had happened. The result must be equal: exported
weights, logged numbers and `final_eval_results.json`, bit for bit, or to 1e-6 under DeepSpeed. The exit code is 1 if
one is not.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import operator
import os
import random
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
import yaml
from attacks.ranks import HOWS, SAID, attack
from run_endings import ending, is_close

from rm_toolkit.output.console import console, print_table
from rm_toolkit.training.manifest import find_checkpoint, read_manifest


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
NOT_BEGUN = -1.0


class Clock(transformers.TrainerCallback):
    """Tells the killing process how far the run has got."""

    step: Synchronized | MappedNumber

    def on_train_begin(self, args, state, control, **kwargs):
        Clock.step.value = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        Clock.step.value = state.global_step


class MappedNumber:
    """A number in a memory-mapped file, shared by unrelated processes."""

    def __init__(self, path: Path):
        if not path.exists():
            path.write_bytes(bytes(8))
        self.array = np.memmap(path, dtype=np.float64, mode="r+", shape=(1,))

    value = property(lambda self: float(self.array[0]), lambda self, step: self.array.__setitem__(0, step))


class Launched:
    """A run under `accelerate launch`, with those methods of a process that [`run`] uses."""

    def __init__(self, config: Path, num_processes: int, work: Path, name: str):
        # The flag --cpu would replace the engine that the file names.
        values = yaml.safe_load(config.read_text(encoding="utf-8")) | {"use_cpu": True, "main_process_port": 0}
        file = work / "accelerate.yaml"
        file.write_text(yaml.safe_dump(values | {"num_processes": num_processes}), encoding="utf-8")
        launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(file)]
        command = [sys.executable, *launch, __file__]
        with (work / f"{name}.log").open("a") as log:
            self.process = subprocess.Popen([*command, "--train", str(work), name], stdout=log, stderr=log)

    exitcode = property(lambda self: self.process.poll())

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def join(self, seconds: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def ranks(self) -> list[int]:
        """Process ids of the training processes, by rank."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.is_alive() else []
        ranks = [child for child in children if "--train" in child.cmdline()]
        return [child.pid for child in sorted(ranks, key=lambda child: int(child.environ().get("RANK", "0")))]


def main() -> int:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of runs to kill")
    parser.add_argument("--processes", type=int, default=1, help="processes per run")
    parser.add_argument("--deepspeed", type=Path, default=None, help="an accelerate config that names DeepSpeed")
    parser.add_argument(
        "--how", nargs="+", choices=HOWS, default=["SIGKILL"], help="signals to send, in turn (default SIGKILL)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--train", nargs=2, default=None, help=argparse.SUPPRESS)  # one rank of a launched run
    options = parser.parse_args()
    if options.train:
        work, name = Path(options.train[0]), options.train[1]
        Clock.step = MappedNumber(work / "clock")
        train(work, name)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        work = Path(temporary)
        number = multiprocessing.get_context("fork").Value("d", NOT_BEGUN)
        Clock.step = MappedNumber(work / "clock") if options.deepspeed else number
        seconds, steps = run(work, "whole", options), Clock.step.value
        engine = re.search(r"Engine (.+?) process", (work / "whole.log").read_text(encoding="utf-8"))
        wrote = read_manifest(str(find_checkpoint(work / "whole")[0]))["num_processes"]
        if engine is None or wrote != options.processes:
            sys.exit(f"{options.processes} process(es) were requested, but {wrote} ran: this would prove nothing")
        console.print(f"Engine {engine[1]} process(es), as reported by the run")
        expected = ending(work / "whole")
        rows, good = [], True
        for number in range(options.kills):
            moment = rng.uniform(0, steps)
            victim = rng.randrange(options.processes)
            options.sent = options.how[number % len(options.how)]
            killed = run(work, "killed", options, (moment, seconds / steps), victim)
            resumed = find_checkpoint(work / "killed")[0]
            if options.sent != "SIGSTOP":
                run(work, "killed", options)
            found = ending(work / "killed")
            close = is_close if options.deepspeed else operator.eq
            equal = [close(one, other) for one, other in zip(found, expected)]
            good = good and all(equal)
            start = resumed.rpartition("-")[2] if resumed else "the start"
            rows.append(
                [
                    f"{number + 1} {options.sent}",
                    f"{moment:.2f}",
                    f"{killed:.0f}",
                    start,
                    *("yes" if e else "NO" for e in equal),
                ]
            )
            console.print(" ".join(rows[-1]))
            shutil.rmtree(work / "killed")
    print_table(["kill", "moment (steps)", "at step", "resumed from", "weights", "logs", "results"], rows)
    return 0 if good else 1


def run(
    work: Path,
    name: str,
    options: argparse.Namespace,
    kill_at: tuple[float, float] | None = None,
    victim: int = 0,
) -> float:
    """
    Runs the recipe in separate processes.

    Args:
        work (`Path`): Where everything is written.
        name (`str`): Name of the output folder in it.
        options (`argparse.Namespace`): The parsed command line: processes and engine of the run.
        kill_at (`tuple`, *optional*): When to kill it: a step with a fraction (how far into the step), and the mean
            seconds per step. With `None`, the run ends by itself.
        victim (`int`): Rank to kill.

    Returns:
        `float`: Seconds of training, or the step at which the run was killed.
    """
    Clock.step.value = NOT_BEGUN
    processes = start(work, name, options)
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
            printed = (work / f"{name}.log").read_text(encoding="utf-8")[-8000:]
            sys.exit(f"{printed}\na run ended with {[process.exitcode for process in processes]}")
        return end - begin
    return _killed(work / f"{name}.log", processes, options, kill_at, victim)


def _killed(
    log: Path, processes: list[Any], options: argparse.Namespace, kill_at: tuple[float, float], victim: int
) -> float:
    """Sends the signal at the chosen moment and checks how the run ends; returns the step at which it was sent."""
    whole, fraction = divmod(kill_at[0], 1)
    rank, victim = victim, min(victim, len(processes) - 1)
    while Clock.step.value < whole and processes[victim].is_alive():
        time.sleep(0.005)
    processes[victim].join(fraction * kill_at[1])
    step = Clock.step.value
    pids = processes[0].ranks() if options.deepspeed else [process.pid for process in processes]
    if len(pids) == options.processes:  # else the run has just ended
        attack(pids, rank, options.sent)
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    expected = HOWS[options.sent]
    if None in codes or (0 in codes) != (options.sent == "SIGSTOP"):
        sys.exit(f"a run that was sent {options.sent} ended with {codes}\n{log.read_text()[-5000:]}")
    said = [line for line in log.read_text().splitlines() if line.startswith(SAID)]
    console.print(f"{options.sent}: exit codes {codes}, it printed {said[-3:]}")
    if not options.deepspeed and expected is not None and 0 not in codes and not {*codes} <= {expected, 1, -9}:
        sys.exit(f"a run that was sent {options.sent} ended with {codes} instead of {expected}")
    if "Traceback" in log.read_text() and not options.deepspeed:  # DeepSpeed's launcher prints one itself
        sys.exit(log.read_text()[-5000:])
    return step


def start(work: Path, name: str, options: argparse.Namespace) -> list[Any]:
    """Starts the processes of a run: forks, or a launcher for DeepSpeed."""
    if options.deepspeed:
        return [Launched(options.deepspeed, options.processes, work, name)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(options.processes):
        world = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": options.processes,
            "LOCAL_WORLD_SIZE": options.processes,
        }
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {key: str(value) for key, value in world.items()} if options.processes > 1 else {}
        processes.append(multiprocessing.get_context("fork").Process(target=train, args=(work, name, variables)))
        processes[-1].start()
    return processes


def train(work: Path, name: str, variables: dict[str, str] | None = None) -> None:
    """Runs the recipe as `python recipes/grft.py` does, and ends the process."""
    os.environ.update(variables or {})
    if os.environ.get("RANK", "0") == "0":
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


if __name__ == "__main__":
    sys.exit(main())
