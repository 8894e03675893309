"""Intervals over test prompts for the lines of a study: every model judges the same pairs, so differences are paired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation.intervals import Bootstrap
from ..evaluation.metrics import wins_of
from ..evaluation.pair_rewards import PairRewards
from .grid import PLAIN, Cell, StudyConfig, customized_set, describe_grft


if TYPE_CHECKING:
    from .runner import StudyRunner

Pairs = dict[str, PairRewards]  # by test set


@dataclass
class Difference:
    """
    A difference between two models with its 95% interval.

    Args:
        value, low, high (`float`): As shares: 0.01 is one point.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass
class OverPrompts:
    """
    One strategy after one kind of GRFT, over all seeds and domains.

    Args:
        base, start, strategy (`str`): Base model, description of the GRFT, and strategy.
        gain, lost (`Difference`, *optional*): Customized accuracy gained and general accuracy lost by CRFT; `None` if the
            GRFT run did not evaluate these sets.
        more_gained, less_lost (`Difference`, *optional*): Against plain CRFT; `None` for plain CRFT itself, or without it.
        kept, relative_loss (`Difference`, *optional*): Gain and loss, each over that of plain CRFT; `None` where plain CRFT
            has no gain, or no loss, in one resample out of forty.
        num_runs (`int`): Number of runs.
    """

    base: str
    start: str
    strategy: str
    num_runs: int
    gain: Difference | None = None
    lost: Difference | None = None
    more_gained: Difference | None = None
    less_lost: Difference | None = None
    kept: Difference | None = None
    relative_loss: Difference | None = None


@dataclass
class _Accuracies:
    """An accuracy (mean over sets) of each resample, with the one of all prompts as the first; of shape `(1 + resamples,)`."""

    customized: dict[str, np.ndarray]
    general: dict[str, np.ndarray]


def over_prompts(runner: StudyRunner, bootstrap: Bootstrap | None = None) -> list[OverPrompts]:
    """
    Compares the finished CRFT runs whose rewards at the end were kept.

    Accuracy is the mean over sets, and in each set over the runs (seeds; for general sets also domains) and pairs. Prompts
    are resampled in each set. The interval says how far another draw of test prompts could move a figure, not another
    seed.

    Args:
        runner (`StudyRunner`): The study.
        bootstrap (`Bootstrap`, *optional*): How the intervals are computed.

    Returns:
        `list[OverPrompts]`: In the order of the grid.
    """
    study, bootstrap = runner.study, bootstrap or Bootstrap()
    kept = {cell: runner.pairs(cell) for cell in runner.cells}
    groups: dict[tuple, dict[str, list[tuple[Cell, Pairs]]]] = {}
    for cell in runner.cells:
        if cell.stage == "crft":
            own = groups.setdefault((cell.base, cell.data, cell.grft_lm_loss_coef), {})
            for strategy, pairs in kept[cell].items():
                own.setdefault(strategy, []).append((cell, pairs))
    lines = [
        _compare(study, key, strategy, own, _starts(kept, own[strategy]), bootstrap)
        for key, own in groups.items()
        for strategy in own
    ]
    return [line for line in lines if line is not None]


def _starts(kept: dict[Cell, dict[str, Pairs]], runs: list[tuple[Cell, Pairs]]) -> list[tuple[Cell, Pairs]] | None:
    """The GRFT model of each run, if its rewards on all sets of the run were kept."""
    found = []
    for cell, pairs in runs:
        start = kept[cell.start].get("", {}) if cell.start else {}
        if not set(pairs) <= set(start):
            return None
        found.append((cell, start))
    return found


def _compare(
    study: StudyConfig,
    key: tuple,
    strategy: str,
    groups: dict[str, list[tuple[Cell, Pairs]]],
    starts: list[tuple[Cell, Pairs]] | None,
    bootstrap: Bootstrap,
) -> OverPrompts | None:
    base, data, coefficient = key
    models = {"own": groups[strategy]}
    same = {(cell.seed, cell.domain) for cell, _ in groups[strategy]}
    if starts:
        models["start"] = starts
    plain = [(cell, pairs) for cell, pairs in groups.get(PLAIN, []) if (cell.seed, cell.domain) in same]
    if len(plain) == len(same):
        models["plain"] = plain
    found = _accuracies(study, models, bootstrap)
    if found is None:
        return None
    line = OverPrompts(base, describe_grft(data, coefficient), strategy, len(groups[strategy]))
    if starts:
        line.gain = _difference(found.customized["own"] - found.customized["start"])
        line.lost = _difference(found.general["start"] - found.general["own"])
    if "plain" in models and strategy != PLAIN:
        line.more_gained = _difference(found.customized["own"] - found.customized["plain"])
        line.less_lost = _difference(found.general["own"] - found.general["plain"])
        if starts:
            accuracy = found.customized
            line.kept = _ratio(accuracy["own"] - accuracy["start"], accuracy["plain"] - accuracy["start"])
            accuracy = found.general
            line.relative_loss = _ratio(accuracy["start"] - accuracy["own"], accuracy["start"] - accuracy["plain"])
    return line


def _accuracies(
    study: StudyConfig, models: dict[str, list[tuple[Cell, Pairs]]], bootstrap: Bootstrap
) -> _Accuracies | None:
    """Accuracy of each model, resampled; `None` if the runs have not judged the same pairs, as with a share drawn by seed."""
    domains = {customized_set(study, cell.domain): cell.domain for cell, _ in models["own"]}
    sets: dict[str, dict[str, np.ndarray]] = {}
    for name in (*study.general_sets, *domains):
        judged = {
            model: [pairs[name] for cell, pairs in runs if domains.get(name, cell.domain) == cell.domain]
            for model, runs in models.items()
        }
        prompt = judged["own"][0].prompt
        if not all(np.array_equal(pairs.prompt, prompt) for runs in judged.values() for pairs in runs):
            return None
        columns = [np.mean([wins_of(pairs.margins) for pairs in runs], axis=0) for runs in judged.values()]
        whole = [[column.mean()] for column in columns]
        sets[name] = dict(zip(models, np.hstack([whole, bootstrap.means(columns, prompt)])))
    customized, general = (
        {model: np.mean([sets[name][model] for name in names], axis=0) for model in models}
        for names in (domains, study.general_sets)
    )
    return _Accuracies(customized, general)


def _difference(values: np.ndarray) -> Difference:
    """The difference on all prompts, which comes first, with the interval over the resamples."""
    low, high = np.percentile(values[1:], [2.5, 97.5], method="nearest")  # a ratio may be infinite
    return Difference(float(values[0]), float(low), float(high))


def _ratio(part: np.ndarray, whole: np.ndarray) -> Difference | None:
    """A ratio, if the denominator is above 0 with some certainty."""
    if np.percentile(whole, 2.5) <= 0:
        return None
    found = _difference(np.divide(part, whole, out=np.full_like(part, np.inf), where=whole > 0))
    return found if np.isfinite([found.low, found.high]).all() else None
