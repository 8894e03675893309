"""The report of a frontier: a table, the figure, and the choice in words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..output.page import content
from ..output.page.document import write_document
from ..output.plotting import BLUE, GRAY, VERMILLION, picture
from .frontier import Frontier, Point


TITLE = "Between the general and the customized reward model"


def save_frontier(frontier: Frontier, folder: Path) -> None:
    """Writes `frontier.json`, `frontier.md`, `frontier.png` and `report.html` into an existing folder."""
    values = {
        "allowed_loss": frontier.allowed_loss,
        "lowest_general_accuracy": frontier.limit,
        "chosen_weight": frontier.chosen.weight,
        "general_sets": frontier.general_sets,
        "customized_sets": frontier.customized_sets,
        "points": [_numbers(point) for point in frontier.points],
    }
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "frontier.json").write_text(text + "\n", encoding="utf-8")
    (folder / "frontier.md").write_text(frontier_markdown(frontier), encoding="utf-8")
    draw_frontier(frontier, folder / "frontier.png")
    write_document(folder / "report.html", frontier_content(frontier))


def _numbers(point: Point) -> dict[str, Any]:
    """A point without the rewards behind its metrics."""
    sets = {name: dataclasses.asdict(metrics) for name, metrics in point.sets.items()}
    return {"weight": point.weight, "general": point.general, "customized": point.customized, "sets": sets}


def frontier_rows(frontier: Frontier) -> tuple[list[str], list[list[str]]]:
    """Returns headings and rows of the table: one row per weight, the chosen one with a star."""
    names = [*frontier.general_sets, *frontier.customized_sets]
    rows = [
        [
            f"{point.weight:g}{' *' if point is frontier.chosen else ''}",
            f"{point.general:.4f}",
            f"{point.customized:.4f}",
            *(f"{point.sets[name].accuracy:.4f}" for name in names),
        ]
        for point in frontier.points
    ]
    return ["weight", "general", "customized", *names], rows


def frontier_markdown(frontier: Frontier) -> str:
    """Returns the table, the choice, and how far to trust it."""
    columns, rows = frontier_rows(frontier)
    lines = [
        f"# {TITLE}",
        "",
        "![general against customized accuracy](frontier.png)",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        describe_choice(frontier),
        "",
        how_far(frontier),
    ]
    return "\n".join(lines) + "\n"


def frontier_content(frontier: Frontier) -> content.Block:
    """Returns the report as a page."""
    columns, rows = frontier_rows(frontier)
    blocks = [
        content.text(describe_choice(frontier)),
        content.table(columns, rows),
        content.text(how_far(frontier)),
        content.figure("frontier.png", "General against customized accuracy"),
    ]
    return content.page(TITLE, [content.section("Accuracy by weight", blocks)])


def how_far(frontier: Frontier) -> str:
    """Explains the numbers, and how far to trust them."""
    pairs = ", ".join(f"{name} {found.num_pairs:,}" for name, found in frontier.chosen.sets.items())
    return (
        f"Accuracy; `general` and `customized` are means over their sets. Pairs: {pairs}. The weight was chosen on these "
        "sets, so its accuracy on them is slightly optimistic: test the model on others."
    )


def describe_choice(frontier: Frontier) -> str:
    """States in a sentence which weight was chosen, and its gain and loss."""
    first, last, chosen = frontier.points[0], frontier.points[-1], frontier.chosen
    if chosen.weight == 0:
        return (
            f"No weight above 0 gains customized accuracy and loses at most {frontier.allowed_loss:g} of general "
            "accuracy, so the general model was chosen."
        )
    gain = chosen.customized - first.customized
    share = (
        f" ({gain / (last.customized - first.customized):.0%} of the gain)"
        if last.customized > first.customized
        else ""
    )
    return (
        f"Chosen: weight {chosen.weight:g}, customized {first.customized:.4f} -> {chosen.customized:.4f}{share}, general "
        f"{first.general:.4f} -> {chosen.general:.4f} (allowed down to {frontier.limit:.4f}; weight 1 has {last.general:.4f})."
    )


def draw_frontier(frontier: Frontier, path: Path) -> None:
    """
    Draws general (x axis) against customized accuracy (y axis), with a point per weight.

    Args:
        frontier (`Frontier`): The frontier to draw.
        path (`Path`): PNG file to write.
    """
    across = [point.general for point in frontier.points]
    up = [point.customized for point in frontier.points]
    with picture(path, 5.4) as figure:
        axis = figure.add_subplot()
        axis.plot(across, up, "-o", color=BLUE, markersize=5, linewidth=1.2, label="weights between")
        axis.plot(across[0], up[0], "s", color=GRAY, markersize=9, label="general model (weight 0)")
        axis.plot(across[-1], up[-1], "^", color=GRAY, markersize=9, label="customized model (weight 1)")
        chosen = frontier.chosen
        ring = {"markersize": 19, "markerfacecolor": "none", "markeredgecolor": VERMILLION, "markeredgewidth": 2.2}
        axis.plot(chosen.general, chosen.customized, "o", label=f"chosen (weight {chosen.weight:g})", **ring)
        axis.axvline(
            frontier.limit,
            color=VERMILLION,
            linestyle="--",
            linewidth=1,
            label=f"allowed loss {frontier.allowed_loss:g}",
        )
        _label_points(axis, frontier)
        axis.set_xlabel(f"general accuracy ({', '.join(frontier.general_sets)})")
        axis.set_ylabel(f"customized accuracy ({', '.join(frontier.customized_sets)})")
        axis.margins(0.12)
        figure.legend(loc="outside lower center", ncols=3, markerscale=0.7, labelspacing=0.8)


def _label_points(axis: Any, frontier: Frontier) -> None:
    """Writes each weight beside its point; points at the same position share a label."""
    spots: dict[tuple[float, float], list[float]] = {}
    for point in frontier.points:
        spots.setdefault((round(point.general, 4), round(point.customized, 4)), []).append(point.weight)
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    for spot, weights in spots.items():
        text = ", ".join(f"{weight:g}" for weight in weights)
        axis.annotate(text, spot, textcoords="offset points", xytext=(12, 6), fontsize=9, bbox=ground, zorder=5)
