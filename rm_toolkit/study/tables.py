"""The texts and tables of a study, for its README and its page."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import __version__
from .grid import Cell, StudyConfig, customized_set
from .over_prompts import OverPrompts
from .runner import StudyRunner
from .summary import Line, best_within


COLUMNS = (
    "GRFT",
    "strategy",
    "customized",
    "general",
    "gain",
    "general lost",
    "gain of plain",
    "loss of plain",
    "lost less than plain",
    "frontier",
)


def introduction(runner: StudyRunner, results: dict[Cell, dict[str, Any]]) -> str:
    """How many cells are finished, and what the columns mean."""
    study = runner.study
    return (
        f"{len(results)} of {len(runner.cells)} runs, seeds {', '.join(map(str, study.seeds))}; domains "
        f"{', '.join(study.crft.domains)}; rm_toolkit {__version__}. General accuracy is the mean over "
        f"{', '.join(study.general_sets)}; customized accuracy is that on `{study.customized_set}`. Figures are means over "
        "seeds (each over the domains) with the 95% interval of Student's t for two seeds or more. `gain` is "
        "the customized accuracy gained by CRFT, `general lost` the general accuracy lost; `gain of plain` and `loss of "
        "plain` compare both with plain CRFT of the same domains and seeds, and `lost less than plain` is the mean over pairs of runs "
        "of one domain and seed, with the 95% interval over these pairs. On the frontier: no other row of the base model is "
        "better in one accuracy and as good in the other; rows with fewer runs than others do not count."
    )


RUN_COLUMNS = ("run", "customized", "general", "seconds", "command")
PAIRED_COLUMNS = (
    "GRFT",
    "strategy",
    "runs",
    "gain",
    "general lost",
    "more gained than plain",
    "lost less than plain",
    "gain of plain",
    "loss of plain",
)
PAIRED = (
    "The same differences with 95% intervals over the test prompts: all models judge the same pairs, and prompts are "
    "resampled. They say how far other test prompts could move a figure, not another seed. `gain of plain` and `loss of plain` need a gain "
    "and a loss of plain CRFT above 0."
)


def paired_row(line: OverPrompts) -> list[str]:
    """The cells of a row, in the order of `PAIRED_COLUMNS`."""
    values = (line.gain, line.lost, line.more_gained, line.less_lost, line.kept, line.relative_loss)
    return [line.start, line.strategy, str(line.num_runs), *("-" if value is None else str(value) for value in values)]


def best_of_each(study: StudyConfig, lines: list[Line]) -> list[str]:
    """A sentence for each base model: the best row that loses no more general accuracy than allowed."""
    return [
        f"Best of {base} for at most {100 * study.allowed_loss:g} points of general accuracy: **{line.strategy}** after "
        f"GRFT on {line.start}: customized {line.customized}, general {line.general}."
        for base, line in best_within(lines, study.allowed_loss).items()
    ]


def run_rows(study: StudyConfig, results: dict[Cell, dict[str, Any]]) -> list[list[str]]:
    """The cells of a row for each run, in the order of `RUN_COLUMNS`."""
    rows = []
    for cell, result in results.items():
        end = {name: sets["accuracy"] for name, sets in result["results"]["end"].items()}
        kinds = [customized_set(study, cell.domain)] if cell.domain else [], study.general_sets
        means = [
            f"{np.mean([end[name] for name in names]):.3f}" if names and set(names) <= set(end) else "-"
            for names in kinds
        ]
        rows.append([cell.name, *means, f"{result['seconds']:.0f}", result["command"]])
    return rows


def line_row(line: Line) -> list[str]:
    """The cells of a row, in the order of `COLUMNS`."""
    percent = ["-" if value is None else f"{value:.0%}" for value in (line.kept_gain, line.relative_loss)]
    values = [line.customized, line.general, line.gain, line.loss]
    saved = "-" if line.saved is None else str(line.saved)
    return [line.start, line.strategy, *map(str, values), *percent, saved, "yes" if line.on_frontier else ""]
