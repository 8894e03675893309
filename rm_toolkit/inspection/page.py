"""`report.html` of an inspection: its report as a page with sortable tables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ..output.page import content
from ..output.page.document import write_document
from .report import (
    COUNTED,
    EACH_COLUMN,
    MEASURE,
    SHARES,
    counts_table,
    cut_sentence,
    inspection_title,
    lengths_table,
    overlap_table,
    words_table,
)


def write_page(result: dict[str, Any], figures: list[tuple[str, str]], path: Path) -> None:
    """
    Writes the page.

    Args:
        result (`dict`): Contents of `inspection.json`.
        figures (`list[tuple[str, str]]`): From [`~rm_toolkit.inspection.figures.draw_figures`].
        path (`Path`): The file; the figures are beside it in `figures/`.
    """
    pictures = {file: content.figure(f"figures/{file}", caption) for file, caption in figures}
    note = EACH_COLUMN if len(result["counts"]) > 1 else ""
    lengths = [content.table(*lengths_table(result)), content.text(cut_sentence(result)), pictures["lengths.png"]]
    sections = [
        content.section("Rows and pairs", [content.table(*counts_table(result), note), content.text(COUNTED)]),
        content.section("Lengths", lengths),
    ]
    if result["overlap"]:
        blocks = [content.table(*overlap_table(result)), content.text(SHARES)]
        sections.append(content.section("Overlap", blocks))
    words = [content.text(MEASURE), content.table(*words_table(result))]
    sections.append(
        content.section("Distinctive words", words + [pictures[k] for k in ("words.png",) if k in pictures])
    )
    made = [content.text(f"rm_toolkit {result['rm_toolkit']}; fingerprint {result['fingerprint']}.")]
    if result["command"]:
        made.append(content.code(shlex.join(result["command"])))
    sections.append(content.section("How this was made", made))
    write_document(path, content.page(inspection_title(result), sections, f"{result['texts']:,} texts"))
