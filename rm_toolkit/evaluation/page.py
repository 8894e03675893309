"""`report.html`: the report as a page, with the pairs behind its numbers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ..output.page import content
from ..output.page.document import LARGEST, PageData, write_document
from .pair_blocks import add_pairs
from .pair_rows import Judged
from .report import (
    BY_LENGTH,
    DIFFERENCES,
    READING,
    differences,
    length_table,
    made_with,
    model_table,
    overview,
    shown_tags,
    tag_table,
)


Figures = dict[str, list[tuple[str, str]]]


def write_page(
    metrics: dict[str, Any], sets: dict[str, list[Judged]], figures: Figures, path: Path, *, largest: int = LARGEST
) -> None:
    """
    Writes the page.

    Args:
        metrics (`dict`): Contents of `metrics.json`.
        sets (`dict[str, list[Judged]]`): From [`~rm_toolkit.evaluation.pair_rows.judged_sets`].
        figures (`dict[str, list[tuple[str, str]]]`): From [`~rm_toolkit.evaluation.figures.draw_figures`].
        path (`Path`): The file; the figures are beside it in `figures/`.
        largest (`int`): Largest size in bytes at which the page embeds all of its data.
    """
    data = PageData(path.parent)
    add_pairs(sets, data)
    write_document(path, report_content(metrics, figures), data, largest=largest)


def report_content(metrics: dict[str, Any], figures: Figures) -> content.Block:
    """
    Returns the content of the page apart from the pairs: the tables and figures of `report.md`.

    Args:
        metrics (`dict`): Contents of `metrics.json`.
        figures (`dict[str, list[tuple[str, str]]]`): As in [`write_page`].
    """
    names = list(metrics["results"])
    sections = [content.section("Accuracy", [_overview(metrics), *_pictures(figures[""])])]
    if len(names) > 1:
        columns, rows = differences(metrics)
        for row, own in zip(rows, metrics["differences"]):
            row[0] = content.link(
                row[0], _pairs(own["second"], sort="disputed", against=own["first"], set=own["dataset"])
            )
        blocks = [content.text(DIFFERENCES), content.table(columns, rows)]
        sections.insert(1, content.section("Differences", blocks))
    for name in names:
        blocks = [*_tables(name, metrics["results"][name]), *_pictures(figures[name])]
        sections.append(content.section(name, blocks))
    sections += [_reading(metrics), _provenance(metrics)]
    pairs = sum(own["num_pairs"] for own in metrics["datasets"].values())
    subtitle = f"{pairs:,} pairs in {len(metrics['datasets'])} test set{'s' * (len(metrics['datasets']) > 1)}"
    return {**content.page(f"Evaluation of {', '.join(names)}", sections, subtitle), "pairs": True}


def _overview(metrics: dict[str, Any]) -> content.Block:
    """Each accuracy links to the pairs that are ranked incorrectly."""
    columns, rows = overview(metrics)
    for row in rows:
        test = row[0]
        for place, model in enumerate(metrics["results"], 1):
            row[place] = content.link(row[place], _pairs(model, set=test, verdict="wrong"))
    return content.table(
        columns, rows, "Accuracy with its interval. Each value links to the pairs that are ranked incorrectly."
    )


def _tables(name: str, results: dict[str, Any]) -> list[content.Block]:
    blocks = [content.table(*model_table(results))]
    columns, tagged = tag_table(results)
    for row, (test, tag, value, _) in zip(tagged, shown_tags(results)):
        row[1] = content.link(row[1], _pairs(name, set=test, verdict="wrong", **{tag: value}))
    if tagged:
        blocks.append(content.table(columns, tagged, "Parts of the test sets, by tag."))
    ratios, lengths = length_table(results)
    for test, row in zip(results, lengths):
        for ratio in range(len(ratios) - 1):
            row[1 + ratio] = content.link(row[1 + ratio], _pairs(name, set=test, ratio=str(ratio), verdict="wrong"))
    return [*blocks, content.table(ratios, lengths, BY_LENGTH.rstrip(":") + ".")]


def _pairs(model: str, **filters: str) -> str:
    """The URL fragment that shows the pairs with these filters, see `assets/state.js`."""
    return urlencode({"view": "pairs", "model": model, **filters})


def _pictures(figures: list[tuple[str, str]]) -> list[content.Block]:
    return [content.figure(f"figures/{file}", caption) for file, caption in figures]


def _reading(metrics: dict[str, Any]) -> content.Block:
    text = READING.format(**metrics["bootstrap"])
    return content.section("How to read this", [content.terms(re.split(r"(?m)^- ", text)[1:])])


def _provenance(metrics: dict[str, Any]) -> content.Block:
    models, data, versions = made_with(metrics)
    blocks = [content.table(*models), content.table(*data), content.text(versions)]
    if metrics["command"]:
        blocks.append(content.code(shlex.join(metrics["command"])))
    return content.section("How this was made", blocks)
