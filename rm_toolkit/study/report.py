"""The report of a study: a table, curves over training pairs, general against customized accuracy, and a README."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..output.console import console, print_table
from ..output.folders import replace_text
from ..output.page.document import write_document
from ..output.plotting import COLORS, DASHES, GRAY, MARKERS, panels, picture, shared_legend, slug
from .grid import Cell, StudyConfig, describe_grft
from .over_prompts import OverPrompts, over_prompts
from .page import study_content
from .runner import StudyRunner
from .summary import Estimate, Line, curve, study_lines
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


FILLS = ("full", "left", "top")


def write_report(runner: StudyRunner) -> None:
    """
    Writes `README.md`, `report.html`, `summary.json`, `over_prompts.json` and the figures of the finished cells, and
    prints the table.

    Args:
        runner (`StudyRunner`): Some cells may be unfinished; the report says so.
    """
    study = runner.study
    results = {cell: result for cell in runner.cells if (result := runner.result(cell))}
    lines, paired = study_lines(study, results), over_prompts(runner)
    folder = Path(study.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    figures = _draw(study, results, lines, folder / "figures") if lines else []
    for name, found in (("summary.json", lines), ("over_prompts.json", paired)):
        replace_text(folder / name, json.dumps([dataclasses.asdict(line) for line in found], indent=2) + "\n")
    replace_text(folder / "README.md", markdown(runner, results, lines, paired, figures))
    write_document(folder / "report.html", study_content(runner, results, lines, paired, figures))
    for base in study.base_models:
        rows = [line_row(line) for line in lines if line.base == base]
        if rows:
            narrow = (0, 1, 2, 3, 9)  # columns that fit into 80 characters
            print_table([COLUMNS[k] for k in narrow], [[row[k] for k in narrow] for row in rows], title=base)
    console.print(f"Report: {folder / 'README.md'}, report.html; {len(results)} of {len(runner.cells)} cells.")


def markdown(
    runner: StudyRunner,
    results: dict[Cell, dict[str, Any]],
    lines: list[Line],
    paired: list[OverPrompts],
    figures: list[tuple[str, str]],
) -> str:
    """The README of a study."""
    study = runner.study
    text = [
        f"# Study: {', '.join(study.base_models)}",
        "",
        introduction(runner, results),
        "",
    ]
    for base in study.base_models:
        rows = [line_row(line) for line in lines if line.base == base]
        if rows:
            text += [
                f"## {base}",
                "",
                f"| {' | '.join(COLUMNS)} |",
                "|---|---|" + "---:|" * (len(COLUMNS) - 3) + "---|",
            ]
            text += [f"| {' | '.join(row)} |" for row in rows] + [""]
        rows = [paired_row(line) for line in paired if line.base == base]
        if rows:
            text += [
                PAIRED,
                "",
                f"| {' | '.join(PAIRED_COLUMNS)} |",
                "|---|---|" + "---:|" * (len(PAIRED_COLUMNS) - 2),
            ]
            text += [f"| {' | '.join(row)} |" for row in rows] + [""]
    for sentence in best_of_each(study, lines):
        text += [sentence, ""]
    for file, caption in figures:
        text += [f"![{caption}](figures/{file})", ""]
    if runner.failed:
        text += ["## Failed", ""] + [f"- `{cell.name}`: {reason}" for cell, reason in runner.failed.items()] + [""]
    text += ["## Runs", "", f"| {' | '.join(RUN_COLUMNS)} |", "|---|---:|---:|---:|---|"]
    text += [f"| {' | '.join(row)} | `{command}` |" for *row, command in run_rows(runner.study, results)]
    return "\n".join(text) + "\n"


def _draw(
    study: StudyConfig, results: dict[Cell, dict[str, Any]], lines: list[Line], folder: Path
) -> list[tuple[str, str]]:
    drawn = []
    for base in study.base_models:
        own = [line for line in lines if line.base == base]
        if not own:
            continue
        file = f"frontier-{slug(base)}.png"
        draw_frontier(study, own, f"General against customized accuracy · {base}", folder / file)
        drawn.append((file, f"General against customized accuracy, {base}"))
        file = f"curves-{slug(base)}.png"
        draw_curves(study, {c: r for c, r in results.items() if c.base == base}, base, folder / file)
        drawn.append((file, f"Accuracy over training pairs, {base}"))
    return drawn


def draw_frontier(study: StudyConfig, lines: list[Line], title: str, path: Path) -> None:
    """
    One point per line: color and filling are the strategy, marker the GRFT data; frontier points are connected. A hollow marker is the
    model before CRFT.
    """
    strategies = _distinct([*study.crft.strategies, *(line.strategy for line in lines)])
    starts = _distinct(line.start for line in lines)
    before = {start: _before([line for line in lines if line.start == start]) for start in starts}
    with picture(path, 5.2) as figure:
        axis = figure.subplots()
        for line in lines:
            axis.errorbar(
                line.customized.mean,
                line.general.mean,
                xerr=_bars(line.customized),
                yerr=_bars(line.general),
                **_look(strategies.index(line.strategy)),
                marker=MARKERS[starts.index(line.start) % len(MARKERS)],
                markersize=8,
                elinewidth=0.7,
                linestyle="none",
            )
        for k, point in enumerate(before.values()):
            axis.plot(*point, MARKERS[k % len(MARKERS)], color=GRAY, markersize=8, markerfacecolor="white")
        # The interval of two seeds may be wider than the figure: bars end at its edge.
        for number, (which, limits) in enumerate((("customized", axis.set_xlim), ("general", axis.set_ylim))):
            means = [getattr(line, which).mean for line in lines] + [point[number] for point in before.values()]
            margin = max(0.02, 0.15 * (max(means) - min(means)))
            limits(min(means) - margin, max(means) + margin)
        edge = sorted((line.customized.mean, line.general.mean) for line in lines if line.on_frontier)
        axis.plot(*zip(*edge), color=GRAY, linewidth=1, linestyle="--", zorder=0)
        axis.set_xlabel("accuracy on the customized domain")
        axis.set_ylabel("general accuracy (mean over sets)")
        axis.set_title(title)
        handles = [
            *(
                axis.plot([], [], "s", **_look(k), label=name)[0]
                for k, name in enumerate(strategies)
                if any(line.strategy == name for line in lines)
            ),
            *(
                axis.plot([], [], MARKERS[k % len(MARKERS)], color=GRAY, label=f"GRFT: {name}")[0]
                for k, name in enumerate(starts)
            ),
            axis.plot([], [], MARKERS[0], color=GRAY, markerfacecolor="white", label="before CRFT")[0],
            axis.plot([], [], "--", color=GRAY, label="frontier")[0],
        ]
        figure.legend(handles=handles, loc="outside right upper")


def _look(number: int) -> dict[str, str]:
    """Color of a strategy; half-filled markers when the colors are used up."""
    fill = FILLS[number // len(COLORS) % len(FILLS)]
    return {"color": COLORS[number % len(COLORS)], "fillstyle": fill, "markerfacecoloralt": "white"}


def _before(lines: list[Line]) -> tuple[float, float]:
    """Customized and general accuracy before CRFT, by the strategy with the most runs."""
    line = max(lines, key=lambda line: line.num_runs)
    return line.customized.mean - line.gain.mean, line.general.mean + line.loss.mean


def draw_curves(study: StudyConfig, results: dict[Cell, dict[str, Any]], base: str, path: Path) -> None:
    """A panel per kind of GRFT, customized accuracy above general: one line per strategy, mean over its runs."""
    groups: dict[str, dict[str, list]] = {}
    for cell, result in results.items():
        if cell.stage == "crft":
            start = describe_grft(cell.data, cell.grft_lm_loss_coef)
            groups.setdefault(start, {}).setdefault(cell.strategy, []).append(curve(study, cell, result))
    strategies = list(study.crft.strategies)
    title = f"Accuracy over training pairs, by the data of GRFT · {base}"
    with panels(path, [*groups, *groups], title, columns=len(groups), sharex=True, sharey="row") as axes:
        for number, (what, start) in enumerate(
            (what, start) for what in ("customized", "general") for start in groups
        ):
            for strategy, runs in groups[start].items():
                k = strategies.index(strategy)
                mean = _mean_curve([run[what] for run in runs])
                style = {"color": COLORS[k % len(COLORS)], "linestyle": DASHES[k % len(DASHES)], "label": strategy}
                if mean:
                    axes[number].plot(*zip(*mean), marker=MARKERS[k % len(MARKERS)], markersize=3, **style)
            axes[number].set_xlabel("training pairs" if what == "general" else "")
        for first, what in ((0, "customized"), (len(groups), "general")):
            axes[first].set_ylabel(f"{what} accuracy")
        shared_legend(axes)


def _bars(estimate: Estimate) -> list[list[float]] | None:
    """The interval for `errorbar`, clipped to the range of an accuracy."""
    if estimate.low is None:
        return None
    return [[estimate.mean - max(0.0, estimate.low)], [min(1.0, estimate.high) - estimate.mean]]


def _mean_curve(curves: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Mean at the positions that all runs share."""
    positions = sorted(set.intersection(*(set(dict(points)) for points in curves))) if curves else []
    return [(x, float(np.mean([dict(points)[x] for points in curves]))) for x in positions]


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
