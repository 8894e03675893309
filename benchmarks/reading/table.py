"""What each reader gives for each model against the toolkit, and why one cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rm_toolkit.output.markdown import table

from .models import ReadModel


BOUND = 1e-5  # in fp32, in logits
BF16_BOUND = 0.05  # weights and products of 8 bits each


@dataclass(frozen=True)
class Cannot:
    """
    What a reader does not read as the model was trained.

    Args:
        reason (`str`): Why, and what is done instead.
        kinds (`tuple[str, ...]`): Kinds of text; empty for all of them.
    """

    reason: str
    kinds: tuple[str, ...] = ()


@dataclass
class Cell:
    """
    One reader of one model.

    Args:
        largest (`float`, *optional*): Largest difference of a text that it can read.
        cannot (`Cannot`, *optional*): What it cannot, as it was expected.
        off (`float`, *optional*): Largest difference of what it cannot read; NaN where it refuses that.
        failure (`str`): What went wrong, if anything did; or why the reader was skipped.
        bound (`float`): Largest difference allowed.
    """

    largest: float | None = None
    cannot: Cannot | None = None
    off: float | None = None
    failure: str = ""
    bound: float = BOUND

    @property
    def holds(self) -> bool:
        """Whether what it can read is within the bound, and what it cannot is really another number."""
        if self.failure or (self.largest is not None and not self.largest <= self.bound):
            return False
        return self.off is None or not self.off <= self.bound


def compare(model: ReadModel, found: Sequence[float], cannot: Cannot | None = None, *, bound: float = BOUND) -> Cell:
    """
    Compares the rewards of one reader with the toolkit's.

    Args:
        model (`ReadModel`): The model, its texts and the toolkit's rewards.
        found (`Sequence[float]`): The reader's; NaN where it refuses a text.
        cannot (`Cannot`, *optional*): What it is known not to read.
        bound (`float`): Largest difference allowed.
    """
    if len(found) != len(model.rewards):
        return Cell(failure=f"gave {len(found)} rewards for {len(model.rewards)} texts")
    excluded = set(model.kinds if cannot is not None and not cannot.kinds else cannot.kinds if cannot else ())
    differences: dict[bool, list[float]] = {True: [], False: []}
    for kind, mine, other in zip(model.kinds, model.rewards, found):
        differences[kind in excluded].append(abs(mine - other))
    largest = _largest(differences[False])
    return Cell(largest, cannot, _largest(differences[True]) if excluded else None, bound=bound)


def _largest(values: list[float]) -> float | None:
    if not values:
        return None
    return math.nan if any(map(math.isnan, values)) else max(values)


@dataclass
class Table:
    """Cells by reader and model."""

    models: list[str]
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def put(self, reader: str, model: str, cell: Cell) -> None:
        """Adds a cell."""
        self.cells.setdefault(reader, {})[model] = cell

    def skip(self, reader: str, reason: str) -> None:
        """Says of a whole reader why it is not there."""
        self.skipped[reader] = reason

    @property
    def failed(self) -> list[str]:
        """Cells that do not hold, in words."""
        return [
            f"{reader}, {model}: {cell.failure or describe(cell)}"
            for reader, row in self.cells.items()
            for model, cell in row.items()
            if not cell.holds
        ]

    def markdown(self) -> str:
        """The table, and below it the reasons by number."""
        notes: dict[str, int] = {}
        rows = []
        for reader, row in self.cells.items():
            shown = []
            for model in self.models:
                cell = row.get(model)
                note = ""
                if cell is not None and cell.cannot is not None:
                    note = f" ({notes.setdefault(cell.cannot.reason, len(notes) + 1)})"
                shown.append("–" if cell is None else describe(cell) + note)
            rows.append([reader, *shown])
        rows += [
            [reader, *[f"skipped: {reason}"], *[""] * (len(self.models) - 1)]
            for reader, reason in self.skipped.items()
        ]
        lines = [table(["reader", *self.models], rows), ""]
        return "\n".join([*lines, *(f"{number}. {reason}" for reason, number in notes.items())])


def describe(cell: Cell) -> str:
    """One cell in words."""
    if cell.failure:
        return f"**failed**: {cell.failure}"
    parts = []
    if cell.largest is not None:
        parts.append(f"{cell.largest:.1e}" if cell.largest else "0")
        parts[0] += "" if cell.largest <= cell.bound else " **over**"
    if cell.cannot is not None:
        off = "" if cell.off is None else ", refused" if math.isnan(cell.off) else f", {cell.off:.1g} off"
        parts.append(f"{' and '.join(cell.cannot.kinds) or 'all'}: cannot{off}")
    return "; ".join(parts)
