"""Tables and figures in Markdown for the reports."""

from __future__ import annotations

from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    A table; the first column is text, the others are numbers.

    Args:
        columns (`Sequence[str]`): Headings.
        rows (`Sequence[Sequence[str]]`): Cells.
    """
    lines = [_line(columns), "|---|" + "---:|" * (len(columns) - 1), *(_line(row) for row in rows)]
    return "\n".join(lines)


def image(path: str, caption: str) -> str:
    """A figure with its caption as alternative text."""
    return f"![{caption}]({path})"


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with this many decimals, or a dash for `None`."""
    if value is None:
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def with_interval(value: dict[str, float | None], sign: bool = False) -> str:
    """`0.812 [0.790, 0.833]` for `value`, `low` and `high`; without brackets if there is no interval."""
    text = number(value["value"], sign=sign)
    if value.get("low") is None:
        return text
    return f"{text} [{number(value['low'], sign=sign)}, {number(value['high'], sign=sign)}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
