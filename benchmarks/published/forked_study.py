"""
Runs the missing cells of a study like recipes/study.py, but each in a fork of a process that has imported the libraries.

    python benchmarks/published/forked_study.py --config benchmarks/published/smollm2_gpu.yaml

For a GPU that is rented by the second: a run of SmolLM2 on these data takes seconds, and a start of Python as long again. Same cells,
same commands (their `launch` is left out: one process), same report. Several may share a study, as with recipes/study.py. After
`--seconds` no new cell is begun. Saved models are not opened again in a fresh process: that takes as long as a run of CRFT trains.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import runpy
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path


# A process that has touched the GPU cannot be forked for others that use it. So torch asks for GPUs without touching them, and
# bitsandbytes, which PEFT imports and which asks for their kind at once, is left to the forks.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
sys.modules["bitsandbytes"] = None  # type: ignore[assignment]

from rm_toolkit.output.stop_signals import terminable  # noqa: E402
from rm_toolkit.study import runner  # noqa: E402
from rm_toolkit.study.grid import Cell, StudyConfig, load_study  # noqa: E402
from rm_toolkit.study.report import write_report  # noqa: E402


# What a run imports in any case.
IMPORTS = (
    "torch",
    "trl.trainer.reward_trainer",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "datasets",
    "sklearn.linear_model",
    "rm_toolkit.training.stages",
    "rm_toolkit.training.recipe",
    "rm_toolkit.training.tiny_base",
    "rm_toolkit.merging.frontier",
    "rm_toolkit.hub",
)


class ForkingRunner(runner.StudyRunner):
    """
    Computes each cell in a fork.

    Args:
        study (`StudyConfig`): The grid.
        seconds (`float`): No cell is begun later than this.
        stages (`list[str]`): Stages whose cells are run.
    """

    def __init__(self, study: StudyConfig, seconds: float, stages: list[str]):
        super().__init__(study)
        self.cells = [cell for cell in self.cells if cell.stage in stages]
        self.deadline = time.monotonic() + seconds

    def _try(self, cell: Cell, bar) -> bool:
        if time.monotonic() > self.deadline:
            raise TimeoutError("time is up; the same command goes on")
        return super()._try(cell, bar)

    def _compute(self, cell: Cell, folder: Path) -> None:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                leave_out_reload_check()
                super()._compute(cell, folder)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        failed = folder / "failed"
        try:
            _, status = os.waitpid(child, 0)
        except BaseException:  # told to stop: so is the run, which is then no failure
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            failed.unlink(missing_ok=True)
            raise
        result = self.result(cell)
        if result is None and not failed.exists():
            failed.write_text(f"ended with status {status}\n", encoding="utf-8")
        took = f"failed: {failed.read_text().strip()}" if result is None else f"{result['seconds']:.1f} s"
        print(f"{time.strftime('%H:%M:%S')} {cell.name}: {took}", flush=True)


def leave_out_reload_check() -> None:
    """Saved models are not opened again in this process's runs."""
    from rm_toolkit.training.trainer import RewardModelTrainer

    RewardModelTrainer.reload_check = lambda self, folder=None: 0


def run_here(words: list[str], log: Path) -> int:
    """Runs the recipe of a command in this process, with its output in a file; returns the exit code."""
    at = next(k for k, word in enumerate(words) if word.endswith(".py"))
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with log.open("wb") as file:
        for number, _ in kept:
            os.dup2(file.fileno(), number)
    sys.argv = words[at:]
    try:
        runpy.run_path(words[at], run_name="__main__")
        return 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in kept:
            os.dup2(descriptor, number)
            os.close(descriptor)


def main(argv: list[str] | None = None) -> None:
    """Runs the study and writes its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the grid: a YAML file")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell later than this")
    parser.add_argument("--stage", nargs="+", choices=["grft", "crft"], default=["grft", "crft"], help="stages to run")
    args = parser.parse_args(argv)
    os.environ.setdefault("ACCELERATE_MIXED_PRECISION", "no")
    for name in IMPORTS:
        importlib.import_module(name)
    sys.modules.pop("bitsandbytes", None)
    if sys.modules["torch"].cuda.is_initialized():
        sys.exit("error: an import has begun to use the GPU, so that no run can be forked. Use recipes/study.py.")
    # Python 3.12 warns of forks of a process with threads: these are of libraries, and idle.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    runner.call = run_here
    forking = ForkingRunner(load_study(args.config), args.seconds, args.stage)
    complete = False
    try:
        with contextlib.suppress(TimeoutError), terminable():
            complete = forking.run()
    except KeyboardInterrupt:
        print("stopped. Finished runs are kept; the same command goes on.", file=sys.stderr)
        sys.exit(143)
    write_report(forking)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
