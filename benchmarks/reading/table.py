"""The table of readers: how much their rewards differ from the toolkit's, and what they cannot read and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rm_toolkit.output.markdown import table

from .models import ReadModel


BOUND = 1e-5  # in logits, for fp32
BF16_BOUND = 0.05  # in logits; bf16 has 8 bits of precision


@dataclass(frozen=True)
class Cannot:
    """
    Texts that a reader is known not to read as the model was trained.

    Args:
        reason (`str`): Why, and what to do instead.
        kinds (`tuple[str, ...]`): Kinds of text; empty for all kinds.
    """

    reason: str
    kinds: tuple[str, ...] = ()


@dataclass
class Cell:
    """
    Result of one reader on one model.

    Args:
        largest (`float`, *optional*): Largest difference on texts that it can read.
        cannot (`Cannot`, *optional*): Texts that it is known not to read correctly.
        off (`float`, *optional*): Largest difference on those texts; NaN if it refuses them.
        failure (`str`): What went wrong, if anything did, or why the reader was skipped.
        bound (`float`): Largest difference allowed.
    """

    largest: float | None = None
    cannot: Cannot | None = None
    off: float | None = None
    failure: str = ""
    bound: float = BOUND

    @property
    def holds(self) -> bool:
        """Whether texts that it can read are within the bound, and those that it cannot read are really outside."""
        if self.failure or (self.largest is not None and not self.largest <= self.bound):
            return False
        return self.off is None or not self.off <= self.bound


def compare(model: ReadModel, found: Sequence[float], cannot: Cannot | None = None, *, bound: float = BOUND) -> Cell:
    """
    Compares the rewards of one reader with the toolkit's.

    Args:
        model (`ReadModel`): The model, its texts and the toolkit's rewards.
        found (`Sequence[float]`): The reader's rewards; NaN if it refuses a text.
        cannot (`Cannot`, *optional*): Texts that it is known not to read correctly.
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
    """Cells by reader and model, and skipped readers with the reason."""

    models: list[str]
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def put(self, reader: str, model: str, cell: Cell) -> None:
        """Adds a cell."""
        self.cells.setdefault(reader, {})[model] = cell

    def skip(self, reader: str, reason: str) -> None:
        """Marks a reader as skipped, with the reason."""
        self.skipped[reader] = reason

    @property
    def failed(self) -> list[str]:
        """The cells that do not hold, as text."""
        return [
            f"{reader}, {model}: {cell.failure or describe(cell)}"
            for reader, row in self.cells.items()
            for model, cell in row.items()
            if not cell.holds
        ]

    def markdown(self) -> str:
        """The table, with the numbered reasons below it."""
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
    """The text of a cell."""
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
