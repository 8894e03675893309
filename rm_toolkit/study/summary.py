"""Summary of a study: means over seeds with intervals, the share of plain CRFT's gain that is kept, the frontier."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from .grid import PLAIN, Cell, StudyConfig, customized_set, describe_grft, merged_name


@dataclass
class Estimate:
    """
    A mean over seeds.

    Args:
        mean (`float`): The mean.
        low, high (`float`, *optional*): Its 95% interval (Student's t); `None` for a single seed.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: list[float]) -> Estimate:
        """The mean of one value per seed."""
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean)
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
        return cls(mean, mean - float(half), mean + float(half))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.low is None else f" ± {(self.high - self.low) / 2:.3f}")


@dataclass
class Line:
    """
    One strategy after one kind of GRFT, over all seeds and domains.

    Args:
        base, data, strategy (`str`): Names in the grid.
        grft_lm_loss_coef (`float`, *optional*): That of the GRFT run.
        customized, general (`Estimate`): Accuracy at the end; general is the mean over the general sets.
        gain (`Estimate`): Customized accuracy gained by CRFT.
        loss (`Estimate`): General accuracy lost by CRFT (below 0: gained).
        kept_gain (`float`, *optional*): Gain over that of plain CRFT with the same domains and seeds.
        relative_loss (`float`, *optional*): Loss over that of plain CRFT with the same domains and seeds; `None` without
            GRFT or if plain CRFT lost nothing.
        saved (`Estimate`, *optional*): Loss of plain CRFT minus that of the run with the same domain and seed;
            the interval is over these pairs of runs.
        num_runs (`int`): Number of runs.
        complete (`bool`): No other line after the same GRFT has more runs. Others are means over other domains or seeds.
        on_frontier (`bool`): It is complete, and no other such line of the same base model is better in one accuracy and as good
            in the other.
    """

    base: str
    data: str
    grft_lm_loss_coef: float | None
    strategy: str
    customized: Estimate
    general: Estimate
    gain: Estimate
    loss: Estimate
    num_runs: int
    kept_gain: float | None = None
    relative_loss: float | None = None
    saved: Estimate | None = None
    complete: bool = True
    on_frontier: bool = False

    @property
    def start(self) -> str:
        """Description of the GRFT."""
        return describe_grft(self.data, self.grft_lm_loss_coef)


@dataclass
class _Runs:
    """Results of the runs of one line, by seed and domain."""

    numbers: dict[tuple[int, str | None], dict[str, float]] = field(default_factory=dict)

    def over_seeds(self, name: str) -> Estimate:
        seeds = dict.fromkeys(seed for seed, _ in self.numbers)
        of_seed = {seed: [run[name] for (own, _), run in self.numbers.items() if own == seed] for seed in seeds}
        return Estimate.of([float(np.mean(values)) for values in of_seed.values()])

    def less_than(self, other: _Runs, name: str) -> Estimate:
        return Estimate.of([other.numbers[key][name] - run[name] for key, run in self.numbers.items()])


def study_lines(study: StudyConfig, results: dict[Cell, dict[str, Any]]) -> list[Line]:
    """
    Args:
        study (`StudyConfig`): The grid.
        results (`dict[Cell, dict]`): Results of finished CRFT cells.

    Returns:
        `list[Line]`: In the order of the grid.
    """
    groups: dict[tuple, _Runs] = {}
    for cell, result in _with_merged(results):
        if cell.stage == "crft":
            key = (cell.base, cell.data, cell.grft_lm_loss_coef, cell.strategy)
            groups.setdefault(key, _Runs()).numbers[cell.seed, cell.domain] = _numbers(study, cell, result)
    lines = []
    for key, runs in groups.items():
        names = ("customized", "general", "gain", "loss")
        estimates = {name: runs.over_seeds(name) for name in names}
        lines.append(Line(*key, **estimates, num_runs=len(runs.numbers)))
    for line in lines:
        plain = next((other for other in lines if _same_start(line, other) and other.strategy == PLAIN), None)
        if plain is not None:
            runs, of_plain = (
                groups[each.base, each.data, each.grft_lm_loss_coef, each.strategy] for each in (line, plain)
            )
            _compare(line, runs, of_plain)
        line.complete = line.num_runs == max(other.num_runs for other in lines if _same_start(line, other))
    for line in lines:
        others = [other for other in lines if other.base == line.base and other.complete]
        line.on_frontier = line.complete and not any(_dominates(other, line) for other in others)
    return lines


def _compare(line: Line, runs: _Runs, of_plain: _Runs) -> None:
    """Compares a line with the runs of plain CRFT of the same domains and seeds, if all of them have ended."""
    if not runs.numbers.keys() <= of_plain.numbers.keys():
        return
    same = _Runs({key: of_plain.numbers[key] for key in runs.numbers})
    gain, loss = (same.over_seeds(name).mean for name in ("gain", "loss"))
    line.kept_gain = line.gain.mean / gain if gain > 0 else None
    if line.grft_lm_loss_coef is None:  # a random head has no ability to lose
        return
    line.relative_loss = line.loss.mean / loss if loss > 0 else None
    if line.strategy != PLAIN:
        line.saved = runs.less_than(of_plain, "loss")


def best_within(lines: list[Line], allowed_loss: float) -> dict[str, Line]:
    """
    The complete line with the highest customized accuracy among those that lose at most this much general accuracy.

    Args:
        lines (`list[Line]`): From [`study_lines`].
        allowed_loss (`float`): In accuracy, such as 0.01 for one point.

    Returns:
        `dict[str, Line]`: By base model, if it has one. Runs without GRFT have no general accuracy to lose and are ignored.
    """
    best: dict[str, Line] = {}
    for line in lines:
        if line.grft_lm_loss_coef is None or line.loss.mean > allowed_loss or not line.complete:
            continue
        if line.base not in best or line.customized.mean > best[line.base].customized.mean:
            best[line.base] = line
    return best


def curve(study: StudyConfig, cell: Cell, result: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """
    General (mean over the sets) and customized accuracy over training pairs of one run.

    Returns:
        `dict[str, list[tuple[float, float]]]`: `"general"` and `"customized"` -> (pairs, accuracy).
    """
    points: dict[str, list[tuple[float, float]]] = {"general": [], "customized": []}
    for log in result["log_history"]:
        # If `eval_curve_fraction` is below 1, the sampled part is evaluated at every point.
        values = [log.get(f"eval_{n}_sample_accuracy", log.get(f"eval_{n}_accuracy")) for n in study.general_sets]
        name = customized_set(study, cell.domain)
        own = log.get(f"eval_{name}_sample_accuracy", log.get(f"eval_{name}_accuracy"))
        if own is None or None in values:
            continue
        pairs = log["step"] * result["pairs_per_step"]
        points["general"].append((pairs, float(np.mean(values))))
        points["customized"].append((pairs, own))
    return points


def _with_merged(results: dict[Cell, dict[str, Any]]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """All runs, and each merged model as a separate run."""
    for cell, result in results.items():
        yield cell, result
        for weight, sets in result.get("merged", {}).items():
            end = {name: {"accuracy": accuracy} for name, accuracy in sets.items()}
            merged = {"results": {"start": result["results"]["start"], "end": end}}
            yield dataclasses.replace(cell, strategy=merged_name(cell.strategy or PLAIN, weight)), merged


def _numbers(study: StudyConfig, cell: Cell, result: dict[str, Any]) -> dict[str, float]:
    start, end = result["results"]["start"], result["results"]["end"]
    general = {
        when: float(np.mean([sets[n]["accuracy"] for n in study.general_sets]))
        for when, sets in (("start", start), ("end", end))
    }
    own = customized_set(study, cell.domain)
    return {
        "customized": end[own]["accuracy"],
        "general": general["end"],
        "gain": end[own]["accuracy"] - start[own]["accuracy"],
        "loss": general["start"] - general["end"],
    }


def _same_start(a: Line, b: Line) -> bool:
    return (a.base, a.data, a.grft_lm_loss_coef) == (b.base, b.data, b.grft_lm_loss_coef)


def _dominates(a: Line, b: Line) -> bool:
    at_least = a.customized.mean >= b.customized.mean and a.general.mean >= b.general.mean
    return at_least and (a.customized.mean > b.customized.mean or a.general.mean > b.general.mean)
