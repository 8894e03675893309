"""The line of a table's file where a row begins: found only when an error names the row."""

from __future__ import annotations

import contextlib
import csv
import io
from array import array
from dataclasses import dataclass, field

from .files import open_binary
from .places import Place


ROWS_AT_FIRST = 10_000


class TableLines:
    """
    Finds the lines of rows by reading the table a second time, about as far as is asked.

    Args:
        path (`str`): The table.
        separator (`str`): Between its cells.
    """

    def __init__(self, path: str, separator: str):
        self.path, self.separator = path, separator
        self._lines, self._cells = array("q"), array("q")  # of each row its line, and a hash of its cells
        self._asked = 0

    def line(self, number: int, cells: tuple[str, ...]) -> int | None:
        """
        Returns the line where a row begins, counted from 1; `None` where the rows of this reading may not be those of the
        reader of the table.

        Args:
            number (`int`): Of the row, from 1: the header is row 0.
            cells (`tuple[str, ...]`): Its texts, which must be found there.
        """
        if number > self._asked:
            self._asked = max(2 * number, ROWS_AT_FIRST)
            self._read(len(cells))
        same = number < len(self._lines) and self._cells[number] == hash(cells)
        return self._lines[number] if same else None

    def _read(self, width: int) -> None:
        self._lines, self._cells = array("q"), array("q")
        line = 1
        # After a cell too long for this module, or damage, no line is known.
        with (
            contextlib.suppress(csv.Error, UnicodeDecodeError, EOFError, OSError),
            io.TextIOWrapper(open_binary(self.path), encoding="utf-8-sig", newline="") as file,
        ):
            reader = csv.reader(file, delimiter=self.separator)
            for row in reader:
                if len(row) > 1 or "".join(row).strip():  # the reader of the table skips blank lines
                    self._lines.append(line)
                    self._cells.append(hash((*row, *[""] * (width - len(row)))))
                if len(self._lines) > self._asked:
                    return
                line = reader.line_num + 1


@dataclass(frozen=True)
class TablePlace(Place):
    """
    A row of a CSV or TSV file. An editor shows its line, which is not its number: there is a header, and a cell may have
    line breaks.
    """

    cells: tuple[str, ...] = ()
    lines: TableLines | None = field(default=None, repr=False, compare=False)
    null = "an empty cell"

    @property
    def where(self) -> str:
        """The line, where it is known to be right, and the row."""
        line = self.lines.line(self.number, self.cells) if self.lines is not None else None
        return super().where if line is None else f"line {line} ({super().where})"
