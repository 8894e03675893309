"""Interleaved repeats of several sides, while there is time. A failed run is reported and does not stop the others."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from . import tables
from .report import Report
from .runs import OUT_OF_MEMORY, Job
from .sides import FAST, FILLING, PLAIN, TRL, TRL_BEST, Side, by_importance
from .spent import Spent, Weights
from .workers import Failed, TimeRanOut, Workers


class Races(Report):
    """
    A report that can also run sides; `sides` are all sides by name, and `failed` are the parts that are not whole.

    Args:
        args (`argparse.Namespace`): The parsed command line.
    """

    sides: dict[str, Side]

    def __init__(self, args: argparse.Namespace):
        super().__init__(args)
        self.failed: list[str] = []
        self.spent, self.weights = Spent(), Weights()

    def begin(self, part: str) -> None:
        super().begin(part)
        self.spent, self.weights = Spent(), Weights()

    def timed(self, workers: Workers, side: Side, job: Any, **options: Any) -> dict[str, Any]:
        """Runs a job as [`Workers.run`], and notes what it spent. Other weights than before make the part fail."""
        with self.spent.on(side.name):
            found = workers.run(side, job, **options)
        self.spent.add(side.name, found)
        other = self.weights.other(side.name, found)
        if other:
            self.failed.append(self.part)
            self.emit(f"\n{side.name} did not start from the weights of {other}: these are not the same runs.\n")
        return found

    def attempt(self, workers: Workers, side: Side, job: Job) -> dict[str, Any]:
        """Runs a job. If it fails, reports why and returns only `error`; only `TimeRanOut` is raised."""
        try:
            found = self.timed(workers, side, job)
        except Failed as error:
            self.emit(f"\n{side.name} failed:\n\n    {str(error).strip().replace(chr(10), chr(10) + '    ')}\n")
            return {"error": "failed"}
        if "error" in found:
            self.say(f"{side.name}, {job.micro_batch} pairs a micro-batch: {found['error']}")
        return found

    def try_run(self, workers: Workers, side: Side, job: Job) -> dict[str, Any] | None:
        """As [`attempt`], but returns `None` if the job fails."""
        found = self.attempt(workers, side, job)
        return None if "error" in found else found

    def rates_of(self, workers: Workers, side: Side, jobs: dict[int, Job], rates: dict[int, float]) -> None:
        """
        Adds a side's pairs per second by size to `rates`, the smallest first. Sizes that fail are left out, and so are
        those above one that does not fit into memory.
        """
        for size, job in sorted(jobs.items()):
            found = self.attempt(workers, side, job)
            if found.get("error") == OUT_OF_MEMORY:
                return
            if "error" not in found:
                rates[size] = tables.rate(found)
                self.say(f"{side.name}, {size} pairs a batch: {rates[size]:.1f} pairs/s")

    @contextlib.contextmanager
    def as_far_as_time_goes(self) -> Iterator[None]:
        """Ends the block when the part's time is up, so that what was measured still gets into its table."""
        try:
            yield
        except TimeRanOut as error:
            self.emit(f"\nThe measurements are incomplete: {error}.\n")

    def repeat(
        self, workers: Workers, sides: list[Side], job_of: Callable[..., Job], **options: Any
    ) -> dict[str, list[dict[str, Any]]]:
        """Runs all sides once per repeat, in rotating order from the most important one, while there is time."""
        sides = by_importance(sides)
        runs: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
        broken: set[str] = set()
        try:
            for repeat in range(self.args.repeats):
                for number in range(len(sides)):
                    side = sides[(number + repeat) % len(sides)]
                    if side.name in broken:
                        continue
                    found = self.try_run(workers, side, job_of(side.name, **options))
                    if found is None:
                        broken.add(side.name)
                        continue
                    runs[side.name].append(found)
                    self.say(f"{side.name}: {tables.rate(found):.1f} pairs/s")
                    self.keep(runs)
        except TimeRanOut as error:
            done = ", ".join(f"{name} {len(found)}" for name, found in runs.items())
            self.emit(f"\nNot all repeats were made, {error}: {done} of {self.args.repeats}.\n")
        return runs

    def sizes(self, name: str) -> dict[str, int]:
        """Micro-batch of each side: its best in `search-NAME`, or else the fast side's, or else the middle size."""
        path = self.folder / f"search-{name}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        fitting = [size for size in self.args.micro_batches if self.args.pairs_per_step % size == 0]
        if not found:
            self.emit(f"\nThe part `search-{name}` was not run into {self.folder}; micro-batches are not the best.\n")
        late = [key for key in (TRL_BEST, TRL, PLAIN) if found and key not in found]
        if late:
            self.emit(f"\nThe part `search-{name}` did not get to {', '.join(late)}: the fast side's micro-batch.\n")
        middle = fitting[len(fitting) // 2]
        fast = found.get(FAST, found.get(f"{FAST}, without {FILLING}", middle))
        return {key: found.get(key, fast) for key in self.sides}
