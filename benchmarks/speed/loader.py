"""
How long a training loop waits for its next step, on published rows: `cd benchmarks && python -m speed.loader`.

Each step of the loop sleeps for 100 ms, as if a GPU computed, and the share of time spent in `next()` is measured. A
second measurement loads the steps without a pause. The side `0.4.0` is the loader of that version: steps are planned
in the main process, and every tensor is sent separately.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch.utils.data import DataLoader

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.epoch_plan import StepDataset, take_only
from rm_toolkit.batches.step_loading import PlannedSteps, StepNumbers
from rm_toolkit.batches.step_split import PLAN_VERSION
from rm_toolkit.batches.tokenization import TokenizedPreferences
from rm_toolkit.output.markdown import table

from .balance import Setting, plan_of, published, repeated


SETTINGS = (Setting(1, 64), Setting(1, 512), Setting(8, 512))
STEP_SECONDS = 0.1


@dataclass
class Waiting:
    """
    How long the loop waits.

    Args:
        share (`float`): Share of time spent in `next()`, with steps of 100 ms; the first step is not counted.
        first (`float`): Seconds of the first `next()`, in which loader processes start.
        milliseconds (`float`): Time per step without a pause; the first step is not counted.
    """

    share: float
    first: float
    milliseconds: float


def measure(
    data: TokenizedPreferences, setting: Setting, workers: int, *, old: bool = False, steps: int = 30
) -> Waiting:
    """
    Loads some steps twice: with a pause after each, and without.

    Args:
        data (`TokenizedPreferences`): Enough pairs for `steps` steps.
        setting (`Setting`): Size of a step; the loader is that of the first process.
        workers (`int`): Number of loader processes.
        old (`bool`): Whether to use the loader of version 0.4.0.
        steps (`int`): Number of steps to load.
    """
    blocked, total, first = _run(_loader(data, setting, workers, old), steps, STEP_SECONDS)
    _, alone, _ = _run(_loader(data, setting, workers, old), steps, 0.0)
    return Waiting(blocked / total, first, 1000 * alone / (steps - 1))


def _loader(data: TokenizedPreferences, setting: Setting, workers: int, old: bool) -> DataLoader:
    plan = plan_of(data, setting, version=1 if old else PLAN_VERSION, lm_loss=True)
    collator = PreferenceCollator(0, lm_loss_on="text", layout="shared")
    if old:
        return DataLoader(StepDataset(data, collator), batch_sampler=plan, collate_fn=take_only, num_workers=workers)
    steps = PlannedSteps(plan, collator, ahead=not workers)
    return DataLoader(steps, batch_sampler=StepNumbers(plan), collate_fn=take_only, num_workers=workers)


def _run(loader: DataLoader, steps: int, pause: float) -> tuple[float, float, float]:
    """Seconds in `next()` and in total after the first step, and seconds of the first `next()`."""
    iterator, waited = iter(loader), []
    begin = time.perf_counter()
    for number in range(steps):
        before = time.perf_counter()
        for batch in next(iterator):  # as the training loop reads them
            del batch
        waited.append(time.perf_counter() - before)
        if number == 0:
            begin = time.perf_counter()
        if pause:
            time.sleep(pause)
    return sum(waited[1:]), time.perf_counter() - begin, waited[0]


def loader_table(name: str = "helpful", settings: tuple[Setting, ...] = SETTINGS, *, steps: int = 30) -> str:
    """A table with a row for each step size, side and number of loader processes."""
    data, rows = published(name), []
    for setting in settings:
        enough = repeated(data, steps * setting.pairs_per_step)
        for side, old in (("0.4.0", True), ("now", False)):
            for workers in (0, 1, 2):
                found = measure(enough, setting, workers, old=old, steps=steps)
                cells = f"{found.share:.1%}", f"{found.milliseconds:.1f}", f"{found.first:.2f}"
                rows.append([str(setting), side, str(workers), *cells])
    columns = ["processes x micro-batch", "loader", "loader processes", "blocked of a 100 ms step", "step alone, ms"]
    return f"### Waiting for the next step, {name}\n\n{table([*columns, 'first step, s'], rows)}\n"


if __name__ == "__main__":
    print(loader_table(), flush=True)
