"""Where the time of a part went that was not measured, and whether all sides started from the same weights."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any


# What a run says of its set-up, in seconds, and how the note calls it.
_KNOWN = {"imports": "waiting for imports", "model": "weights", "trainer": "trainer", "first": "first step"}


class Spent:
    """The seconds of each side in a part, runs that failed or were cut short included."""

    def __init__(self) -> None:
        self._of: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))

    @contextlib.contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Counts the seconds of the block as those of a side."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._of[name]["all"] += time.monotonic() - began

    def add(self, name: str, run: dict[str, Any]) -> None:
        """Adds what a finished run says of its seconds: those of `_KNOWN`, and those that were measured (`seconds`)."""
        self._of[name]["measured"] += sum(run.get("seconds", []))
        for key in _KNOWN:
            self._of[name][key] += run.get(key, 0.0)

    def note(self) -> str:
        """The seconds that each side needed besides the measured ones, in the order in which the sides ran."""
        said = []
        for name, spent in self._of.items():
            parts = ", ".join(f"{word} {spent[key]:.1f}" for key, word in _KNOWN.items() if spent[key])
            said.append(f"{name} {spent['all'] - spent['measured']:.1f}" + (f" ({parts})" if parts else ""))
        return f"Seconds of set-up, all runs of a side together: {'; '.join(said)}." if said else ""


class Weights:
    """
    The weights from which the sides start, by fingerprint.

    They are drawn anew for each run, from the same seed and on the device that computes. So nothing is copied from the
    host, and no copy that is kept for later runs is in the memory that is measured.
    """

    def __init__(self) -> None:
        self._first: tuple[str, str] | None = None

    def other(self, name: str, run: dict[str, Any]) -> str | None:
        """The side that started from other weights than this run of `name`; `None` if there is none."""
        found = run.get("weights")
        if found is None:
            return None
        if self._first is None:
            self._first = (name, found)
        first, weights = self._first
        return None if found == weights else first
