"""Interleaved repeats of several sides, while there is time. A failed run is reported and does not stop the others."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from . import tables
from .report import Report
from .runs import Job
from .sides import FAST, FILLING, Side
from .workers import Failed, TimeRanOut, Workers


class Races(Report):
    """A report that can also run sides; `sides` are all sides by name."""

    sides: dict[str, Side]

    def try_run(self, workers: Workers, side: Side, job: Job) -> dict[str, Any] | None:
        """Runs a job. If it fails, reports why and returns `None`; only `TimeRanOut` is raised."""
        try:
            found = workers.run(side, job)
        except Failed as error:
            self.emit(f"\n{side.name} failed:\n\n    {str(error).strip().replace(chr(10), chr(10) + '    ')}\n")
            return None
        if "error" in found:
            self.say(f"{side.name}, {job.micro_batch} pairs a micro-batch: {found['error']}")
            return None
        return found

    def rates_of(self, workers: Workers, side: Side, jobs: dict[int, Job]) -> dict[int, float]:
        """Pairs per second of a side by size; sizes that fail are left out."""
        rates: dict[int, float] = {}
        for size, job in jobs.items():
            found = self.try_run(workers, side, job)
            if found:
                rates[size] = tables.rate(found)
                self.say(f"{side.name}, {size} pairs a batch: {rates[size]:.1f} pairs/s")
        return rates

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
        """Runs all sides once per repeat, in rotating order, while there is time."""
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
        middle = fitting[len(fitting) // 2]
        fast = found.get(FAST, found.get(f"{FAST}, without {FILLING}", middle))
        return {key: found.get(key, fast) for key in self.sides}
