"""The figures of an evaluation, one question each: separation, calibration, dependence on length, change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..output.plotting import (
    BLUE,
    COLORS,
    DASHES,
    GRAY,
    MAP,
    MARKERS,
    VERMILLION,
    accuracy_axis,
    in_percent,
    label_outer,
    num_bins,
    panels,
    picture,
    shared_legend,
    shorten,
    slug,
)
from .learning_curves import LearningCurves


if TYPE_CHECKING:
    from .preferences import PreferencePairs


def draw_figures(
    metrics: dict[str, Any],
    tables: dict[str, dict[str, PreferencePairs]],
    rewards: dict[str, dict[str, np.ndarray]],
    curves: dict[str, LearningCurves],
    folder: Path,
) -> dict[str, list[tuple[str, str]]]:
    """
    Draws every figure for which there is data.

    Args:
        metrics, tables, rewards, curves: Results, as in [`~rm_toolkit.evaluation.evaluator.Evaluation`].
        folder (`Path`): Gets the PNG files.

    Returns:
        `dict[str, list[tuple[str, str]]]`: File names and captions by model; those of all models are under `""`.
    """
    drawn: dict[str, list[tuple[str, str]]] = {"": []}
    stems = _stems(list(metrics["results"]))
    for name, results in metrics["results"].items():
        stem, pairs, own = stems[name], tables[name], rewards[name]
        pictures = {
            f"rewards{stem}.png": (
                draw_rewards,
                (pairs, own),
                "Rewards of chosen and rejected responses",
            ),
            f"margins{stem}.png": (
                draw_margins,
                (pairs, own),
                "Margins: reward of chosen minus rejected",
            ),
            f"reliability{stem}.png": (draw_reliability, (results,), "Reliability: stated probability and accuracy"),
            f"length{stem}.png": (
                draw_length,
                (results,),
                "Accuracy by length ratio, number of pairs on top",
            ),
        }
        if name in curves:
            pictures[f"learning-curves{stem}.png"] = (draw_curves, (curves[name],), "Learning curves")
        drawn[name] = []
        for file, (draw, values, caption) in pictures.items():
            draw(*values, f"{caption} · {name}", folder / file)
            drawn[name].append((file, caption))
    if len(metrics["results"]) > 1 and len(metrics["datasets"]) > 1:
        draw_matrix(metrics, folder / "accuracy-matrix.png")
        drawn[""].append(("accuracy-matrix.png", "Accuracy of every model on every test set"))
    bars = before_and_after(metrics)
    if bars:
        draw_before_after(*bars, folder / "before-after.png")
        drawn[""].append(("before-after.png", f"Accuracy before and after: {bars[0]}"))
    return drawn


def draw_rewards(pairs: dict[str, PreferencePairs], rewards: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Two histograms per test set on one axis: how far apart the rewards of chosen and rejected responses are."""
    with panels(path, list(rewards), title) as axes:
        for axis, (name, values) in zip(axes, rewards.items()):
            chosen, rejected = values[pairs[name].better], values[pairs[name].worse]
            edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), num_bins(len(chosen)) + 1)
            shares = in_percent(len(chosen))
            axis.hist(rejected, edges, weights=shares, color=VERMILLION, alpha=0.45, label="rejected")
            axis.hist(chosen, edges, weights=shares, color=BLUE, histtype="step", linewidth=2, label="chosen")
            axis.axvline(rejected.mean(), color=VERMILLION, linestyle="--", label="mean of rejected")
            axis.axvline(chosen.mean(), color=BLUE, linestyle=":", linewidth=2, label="mean of chosen")
        label_outer(axes, "reward (logits)", "share of pairs (%)")
        shared_legend(axes)


def draw_margins(pairs: dict[str, PreferencePairs], rewards: dict[str, np.ndarray], title: str, path: Path) -> None:
    """One histogram per test set; pairs left of zero are ranked incorrectly."""
    with panels(path, list(rewards), title) as axes:
        for axis, (name, values) in zip(axes, rewards.items()):
            margins = values[pairs[name].better] - values[pairs[name].worse]
            reach = max(float(np.abs(margins).max()), 1e-6)
            # Zero is a bin edge, so no bar mixes right and wrong pairs.
            edges = np.linspace(-reach, reach, 2 * (num_bins(len(margins)) // 2) + 1)
            shares = in_percent(len(margins))
            for part, color, hatch, label in (
                (margins[margins < 0], VERMILLION, "///", "ranked incorrectly"),
                (margins[margins >= 0], BLUE, None, "ranked correctly, or equal"),
            ):
                style = {"color": color, "alpha": 0.8, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}
                axis.hist(part, edges, weights=shares[: len(part)], label=label, **style)
            axis.axvline(0, color="black", linewidth=1)
            axis.axvline(margins.mean(), color="black", linestyle="--", linewidth=1.5, label="mean margin")
        label_outer(axes, "margin (logits)", "share of pairs (%)")
        shared_legend(axes)


def draw_reliability(results: dict[str, Any], title: str, path: Path) -> None:
    """Accuracy by stated probability; bars below show the number of pairs."""
    with panels(path, list(results), title, sharex=True, sharey=True) as axes:
        for axis, values in zip(axes, results.values()):
            curve = values["reliability"]
            counts = np.array(curve["counts"])
            edges = np.array(curve["edges"])
            filled = counts > 0
            confidence = np.array(curve["confidence"], dtype=float)[filled]
            accuracy = np.array(curve["accuracy"], dtype=float)[filled]
            axis.bar(edges[:-1], 0.35 * counts / counts.max(), np.diff(edges), align="edge", color="#D8D8D8")
            axis.plot([0.5, 1], [0.5, 1], color=GRAY, linestyle="--", label="stated = observed")
            axis.plot(confidence, accuracy, color=BLUE, linewidth=1, alpha=0.5)
            # Few pairs are weak evidence, so their dot is small.
            sizes = 15 + 150 * counts[filled] / counts.max()
            axis.scatter(confidence, accuracy, sizes, color=BLUE, clip_on=False, zorder=3, label="model")
            axis.fill_between([], [], color="#D8D8D8", label="number of pairs (also the size of a dot)")
            axis.set(xlim=(0.5, 1.0), ylim=(0, 1.03))
            axis.set_title(f"{axis.get_title()}\nECE {values['ece']:.3f}, Brier {values['brier']:.3f}", fontsize=10)
        label_outer(axes, "stated probability", "share ranked correctly")
        shared_legend(axes)


def draw_length(results: dict[str, Any], title: str, path: Path) -> None:
    """Accuracy where the chosen response is the shorter or the longer one, beside a rule that only counts characters."""
    with panels(path, list(results), title, panel_height=2.9, sharey=True) as axes:
        for axis, values in zip(axes, results.values()):
            rows = values["length"]["by_ratio"]
            places = np.arange(len(rows))
            heights = [0.0 if row["accuracy"] is None else row["accuracy"] for row in rows]
            rule = [np.nan if row["longer_wins"] is None else row["longer_wins"] for row in rows]
            axis.bar(places, heights, 0.75, color=BLUE, alpha=0.85, label="model")
            axis.plot(places, rule, "D", color=VERMILLION, clip_on=False, label="rule: the longer text wins")
            for place, row in zip(places, rows):
                axis.text(place, 1.1, f"{row['num_pairs']:,}", ha="center", fontsize=9)
            accuracy_axis(axis, room=0.2)
            axis.set_xticks(places, ["<½", "½–⅘", "⅘–1¼", "1¼–2", "≥2"], fontsize=9)
        label_outer(axes, "length, chosen ÷ rejected", "accuracy")
        shared_legend(axes)


def draw_curves(curves: LearningCurves, title: str, path: Path) -> None:
    """One line per test set; those of the customized domain are thick."""
    with picture(path, 4.6) as figure:
        axis = figure.subplots()
        for number, (name, points) in enumerate(curves.points.items()):
            own = name in curves.customized
            axis.plot(
                *zip(*points),
                color=COLORS[number % len(COLORS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle="-" if own else DASHES[1 + number % 3],
                linewidth=3 if own else 1.6,
                clip_on=False,
                label=f"{shorten(name, 30)} (customized)" if own else shorten(name, 30),
            )
        axis.set(xlabel=f"{curves.unit} seen", ylabel="accuracy")
        axis.set_title(shorten(title, 90), fontsize=12)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside lower center", ncols=3)


def draw_matrix(metrics: dict[str, Any], path: Path) -> None:
    """A heat map with numbers; a frame marks a model on the domain that it was customized for."""
    matrix = metrics["accuracy_matrix"]
    models, tests = list(matrix), list(metrics["datasets"])
    values = np.array([[matrix[model][test] for test in tests] for model in models])
    with picture(path, 1.9 + 0.55 * len(models)) as figure:
        axis = figure.subplots()
        low = min(0.5, float(values.min()))
        image = axis.imshow(values, cmap=MAP, vmin=low, vmax=1.0, aspect="auto")
        for row, model in enumerate(models):
            for column, test in enumerate(tests):
                bright = (values[row, column] - low) / (1 - low) > 0.5
                ink = "black" if bright else "white"
                axis.text(column, row, f"{values[row, column]:.3f}", ha="center", va="center", color=ink)
                domain = metrics["models"][model]["domain"]
                if domain and metrics["datasets"][test]["domains"] == [domain]:
                    frame = {"fill": False, "edgecolor": VERMILLION, "linewidth": 3}
                    axis.add_patch(_rectangle((column - 0.47, row - 0.44), 0.94, 0.88, **frame))
        axis.set_xticks(range(len(tests)), [shorten(test, 22) for test in tests], rotation=25, ha="right")
        axis.set_yticks(range(len(models)), [shorten(model, 26) for model in models])
        axis.grid(False)
        framed = " (a frame: the domain that the model was customized for)" if axis.patches else ""
        axis.set(xlabel=f"test set{framed}", ylabel="model")
        axis.set_title("Accuracy of every model on every test set", fontsize=12)
        figure.colorbar(image, label="accuracy")


def before_and_after(metrics: dict[str, Any]) -> tuple[str, list[str], list[dict], list[dict]] | None:
    """
    What changed: the first and the last model of an evaluation, or start and end of the only model's training.

    Returns:
        `tuple` or `None`: Title, names of the test sets, and the accuracy of each before and after.
    """
    results = metrics["results"]
    names = list(results)
    if len(names) > 1:
        tests = list(metrics["datasets"])
        before, after = ([results[name][test]["accuracy"] for test in tests] for name in (names[0], names[-1]))
        return f"{names[0]} → {names[-1]}", tests, before, after
    run = metrics["models"][names[0]].get("final_eval_results") or {}
    tests = [test for test in run.get("end", {}) if test in run.get("start", {})]
    if not tests:
        return None
    before, after = ([{"value": run[when][test]["accuracy"]} for test in tests] for when in ("start", "end"))
    return f"start → end of the training of {names[0]}", tests, before, after


def draw_before_after(title: str, tests: list[str], before: list[dict], after: list[dict], path: Path) -> None:
    """Two bars per test set, with their 95% intervals where known."""
    with picture(path, 4.4) as figure:
        axis = figure.subplots()
        places = np.arange(len(tests))
        for shift, values, color, hatch, label in (
            (-0.2, before, "#56B4E9", "///", "before"),
            (0.2, after, BLUE, None, "after"),
        ):
            heights = np.array([value["value"] for value in values], dtype=float)
            axis.bar(places + shift, heights, 0.38, color=color, hatch=hatch, edgecolor="white", label=label)
            ends = [(value.get("low"), value.get("high")) for value in values]
            top = heights.copy()
            for n, (low, high) in enumerate(ends):
                if low is not None:
                    spread = [[max(heights[n] - low, 0)], [max(high - heights[n], 0)]]
                    axis.errorbar(places[n] + shift, heights[n], spread, color="black", capsize=3, linewidth=1.2)
                    top[n] = max(high, heights[n])
            for n, height in enumerate(heights):
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                axis.text(places[n] + shift, top[n] + 0.02, f"{height:.3f}", ha="center", fontsize=9, bbox=box)
        accuracy_axis(axis, room=0.1)
        axis.set_xticks(places, [shorten(test, 18) for test in tests])
        if len(tests) > 5:
            axis.tick_params(axis="x", rotation=25)
        axis.set(ylabel="accuracy", xlabel="test set")
        axis.set_title(shorten(f"Accuracy before and after: {title}", 90), fontsize=12)
        figure.legend(loc="outside lower center", ncols=2)


def _rectangle(*args: Any, **kwargs: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(*args, **kwargs)


def _stems(names: list[str]) -> dict[str, str]:
    """Suffix of the file names of each model: empty for a single model, else its name, numbered if two are the same."""
    if len(names) == 1:
        return {names[0]: ""}
    stems: dict[str, str] = {}
    for number, name in enumerate(names):
        stem = f"-{slug(name)}"
        stems[name] = f"{stem}-{number}" if stem in stems.values() else stem
    return stems
