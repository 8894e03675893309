"""Helpers to test survival: runs in processes of their own that are killed, signalled or run out of resources."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


QUIET = {
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "max_length": 48,
    "per_device_train_batch_size": 2,
    "pairs_per_step": 8,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "linear",
    "num_train_epochs": 2,
    "logging_steps": 3,
    "eval_on_start": True,
    "eval_strategy": "epoch",
    "save_strategy": "steps",
    "save_steps": 2,
}
SPEEDS = ("runtime", "per_second")


def build(
    folder: str | Path, base: str, data: dict[str, list], options: dict[str, Any], callbacks: list | None = None
):
    """A tiny trainer. The option `lora` adds an adapter with dropout."""
    from datasets import Dataset
    from peft import LoraConfig

    from rm_toolkit.training.config import RewardModelConfig
    from rm_toolkit.training.trainer import RewardModelTrainer

    options = {**QUIET, **options, "output_dir": str(folder)}
    lora = LoraConfig(r=2, lora_dropout=0.2) if options.pop("lora", False) else None
    return RewardModelTrainer(
        base,
        RewardModelConfig(**options),
        Dataset.from_list(data["train"]),
        {name: Dataset.from_list(rows) for name, rows in data.items() if name != "train"},
        peft_config=lora,
        callbacks=callbacks,
    )


def at(step: int, event: str, action: Callable[[], None]):
    """A callback that calls `action` at an event of the Trainer in a given step."""
    from transformers import TrainerCallback

    class At(TrainerCallback):
        pass

    def act(self, args, state, control, **kwargs):
        if state.global_step == step:
            action()

    setattr(At, event, act)
    return At()


def send(number: int, rank: int | None = None) -> Callable[[], None]:
    """A function that sends a signal to its own process, if that has the rank."""

    def action() -> None:
        if rank is None or int(os.environ.get("RANK", "0")) == rank:
            os.kill(os.getpid(), number)

    return action


kill = send(signal.SIGKILL)
terminate = send(signal.SIGTERM)


def in_child(run: Callable[[], None], num_processes: int = 1, timeout: float = 120) -> list[int]:
    """
    Runs a function in forked processes; several are the ranks of one run.

    Returns:
        `list[int]`: Exit codes; the negative signal number if a signal ended the process.
    """

    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def child(rank: int) -> None:
        from accelerate.state import AcceleratorState, GradientState, PartialState

        from rm_toolkit.training.runtime import run_main

        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        if num_processes > 1:
            world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
            os.environ.update({key: str(value) for key, value in world.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        code = 0
        try:
            run_main(run)()
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # skips pytest's exit handlers

    processes = [context.Process(target=child, args=(rank,)) for rank in range(num_processes)]
    for process in processes:
        process.start()
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.1, end - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
            process.late = True
    assert not any(hasattr(process, "late") for process in processes), "a process did not end in time"
    return [process.exitcode for process in processes]


def train_to_end(
    folder: Path, base: str, data: dict, options: dict, callbacks: Callable[[], list] = list, resume: Any = "auto"
) -> Callable[[], None]:
    """Trains as a recipe does: resumes if there is a checkpoint, and writes `end.pt` and the results at the end."""

    def run() -> None:
        import torch

        from rm_toolkit.training.resume_from import resolve_resume

        trainer = build(folder, base, data, {**options, "resume_from_checkpoint": resume}, callbacks())
        trainer.train(resume_from_checkpoint=resolve_resume(trainer.args))
        results = trainer.save_results()
        if trainer.args.should_save:
            torch.save(trainer.model.state_dict(), folder / "end.pt")
            end = {"logs": trainer.state.log_history, "results": results, "best": trainer.state.best_model_checkpoint}
            (folder / "end.json").write_text(json.dumps(end))

    return run


def ending(folder: Path) -> dict[str, Any]:
    """The outcome of a run: its logs without timings, its results and its weights."""
    import torch

    end = json.loads((folder / "end.json").read_text())
    end["logs"] = [{k: v for k, v in log.items() if not k.endswith(SPEEDS)} for log in end["logs"]]
    if end["best"]:
        end["best"] = Path(end["best"]).name
    end["results"] = (folder / "final_eval_results.json").read_text()
    return {**end, "weights": torch.load(folder / "end.pt", weights_only=True)}


def assert_same_ending(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Asserts that logs, results, best checkpoint and all weights are equal bit for bit."""
    import torch

    assert found["logs"] == expected["logs"]
    assert found["results"] == expected["results"] and found["best"] == expected["best"]
    assert found["weights"].keys() == expected["weights"].keys()
    different = [name for name, value in expected["weights"].items() if not torch.equal(found["weights"][name], value)]
    assert not different, different
