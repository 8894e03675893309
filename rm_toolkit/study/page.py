"""`report.html` of a study: its README as a page with sortable tables."""

from __future__ import annotations

from typing import Any

from ..output.page import content
from .grid import Cell
from .over_prompts import OverPrompts
from .runner import StudyRunner
from .summary import Line
from .tables import (
    COLUMNS,
    PAIRED,
    PAIRED_COLUMNS,
    RUN_COLUMNS,
    best_of_each,
    introduction,
    line_row,
    paired_row,
    run_rows,
)


def study_content(
    runner: StudyRunner,
    results: dict[Cell, dict[str, Any]],
    lines: list[Line],
    paired: list[OverPrompts],
    figures: list[tuple[str, str]],
) -> content.Block:
    """
    Returns the page.

    Args:
        runner, results, lines, paired, figures: As in [`~rm_toolkit.study.report.markdown`].
    """
    study = runner.study
    sections = []
    for base in study.base_models:
        rows = [line_row(line) for line in lines if line.base == base]
        if rows:
            sections.append(content.section(base, [content.table(COLUMNS, rows)]))
        rows = [paired_row(line) for line in paired if line.base == base]
        if rows:
            tables = [content.text(PAIRED), content.table(PAIRED_COLUMNS, rows)]
            sections.append(content.section(f"{base}, over prompts", tables))
    overview = [content.text(introduction(runner, results)), *map(content.text, best_of_each(study, lines))]
    sections.insert(0, content.section("What was run", overview))
    if figures:
        pictures = [content.figure(f"figures/{file}", caption) for file, caption in figures]
        sections.append(content.section("Figures", pictures))
    if runner.failed:
        failed = [[cell.name, reason] for cell, reason in runner.failed.items()]
        sections.append(content.section("Failed", [content.table(["run", "reason"], failed)]))
    rows = [[*row, content.command(command)] for *row, command in run_rows(runner.study, results)]
    sections.append(content.section("Runs", [content.table(list(RUN_COLUMNS), rows)]))
    title = f"Study: {', '.join(study.base_models)}"
    return content.page(title, sections, f"{len(results)} of {len(runner.cells)} runs")
