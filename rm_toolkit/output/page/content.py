"""
The content of a page, as plain values: sections of blocks. A report builds them once, and the page renders them.

Texts may have `code` in backticks and **bold** words as in Markdown; everything else is shown literally.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


Block = dict[str, Any]


def page(title: str, sections: Sequence[Block], subtitle: str = "") -> Block:
    """Returns a page of sections."""
    return {"title": title, "subtitle": subtitle, "sections": list(sections)}


def section(title: str, blocks: Iterable[Block]) -> Block:
    """Returns a section with its heading, which the page's list of contents names."""
    return {"title": title, "blocks": list(blocks)}


def text(content: str) -> Block:
    """Returns a paragraph."""
    return {"kind": "text", "text": " ".join(content.split())}


def heading(content: str) -> Block:
    """Returns a heading inside a section."""
    return {"kind": "heading", "text": content}


def terms(entries: Iterable[str]) -> Block:
    """Returns a list of paragraphs, each beginning with the term that it explains."""
    return {"kind": "terms", "entries": [" ".join(entry.split()) for entry in entries]}


def code(content: str) -> Block:
    """Returns a command or similar text for the reader to copy."""
    return {"kind": "code", "text": content}


def figure(file: str, caption: str) -> Block:
    """
    Returns a figure.

    Args:
        file (`str`): PNG file, relative to the page.
        caption (`str`): What it shows.
    """
    return {"kind": "figure", "file": file, "caption": caption}


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Block:
    """
    Returns a table that the reader can sort by any column.

    Args:
        columns (`Sequence[str]`): Headings; the first column is text, the others are numbers.
        rows (`Iterable[Sequence]`): Cells: strings, [`link`] or [`command`].
        caption (`str`): What the numbers mean, if the headings do not say so.
    """
    return {"kind": "table", "columns": list(columns), "rows": [list(row) for row in rows], "caption": caption}


def link(label: str, target: str) -> dict[str, str]:
    """Returns a cell with a link to another place of the page, by the part of its address after `#`."""
    return {"text": label, "to": target}


def command(text: str) -> dict[str, Any]:
    """Returns a cell that is a command."""
    return {"text": text, "code": True}


def figures_of(content: Block) -> list[Block]:
    """Returns the figures of a page."""
    blocks = [block for part in content["sections"] for block in part["blocks"]]
    return [block for block in blocks if block["kind"] == "figure"]
