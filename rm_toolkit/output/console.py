"""The one place that prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from .redaction import redact


class _Console(Console):
    """A console that hides secrets."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(redact(item) if isinstance(item, str) else item for item in objects), **options)


# Brackets and colons in the user's paths and names are not markup.
console = _Console(soft_wrap=True, markup=False, emoji=False, highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """
    Prints a small table; the first column is text, the others are numbers.

    Args:
        columns (`Sequence[str]`): Headings.
        rows (`Sequence[Sequence[str]]`): Cells.
        title (`str`, *optional*): Line above.
    """
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(redact, row))
    console.print(table)
