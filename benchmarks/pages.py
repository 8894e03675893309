"""Writes the tables of benchmarks into pages, between two marker lines."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path


ROOT = Path(__file__).parents[1]


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a table."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def write_between(page: Path, name: str, text: str) -> None:
    """
    Replaces the text between two marker lines of a page.

    Args:
        page (`Path`): A Markdown file.
        name (`str`): Name in the marker lines.
        text (`str`): The new text.

    Raises:
        `ValueError`: if the page does not have exactly one of each marker line.
    """
    whole = page.read_text(encoding="utf-8")
    begin, end = marks(name)
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(f"{page} has no place for a table: one line '{begin}' and one '{end}'")
    head, rest = whole.split(begin)
    _, tail = rest.split(end)
    temporary = page.with_name(f".{page.name}.partial")
    temporary.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}", encoding="utf-8")
    os.replace(temporary, page)


def made_with(command: str, *versions: str) -> str:
    """A line that says how a table was made: command, versions, CPU cores and date."""
    return f"`{command}`; {', '.join(versions)}; {os.cpu_count()} CPU cores, {date.today().isoformat()}."
