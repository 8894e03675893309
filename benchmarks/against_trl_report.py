"""The Markdown table of `against_trl.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def markdown_report(
    results: dict[str, Any], args: argparse.Namespace, arms: dict[str, str], counts: dict[str, dict[str, int]]
) -> str:
    """
    Accuracy of each contender, overall and by rival domain (mean and range over seeds), and the cost of the runs.

    Args:
        results (`dict`): Contents of the results file.
        args (`argparse.Namespace`): The parsed command line.
        arms (`dict[str, str]`): Key and title of each contender.
        counts (`dict[str, dict[str, int]]`): Numbers of queries and pairs in each part of the data.
    """
    runs = results["runs"].values()
    final = {arm: [run for run in runs if run["arm"] == arm and run["phase"] == "final"] for arm in args.arms}
    rivals = sorted({name for group in final.values() for run in group for name in run["by_rival"]})
    lines = [
        f"{Path(args.model or 'MiniLM').name} on DSP {args.domain}: {counts['train']['pairs']:,} pairs of {counts['train']['queries']:,} queries to "
        f"train on, {counts['test']['pairs']:,} pairs of {counts['test']['queries']:,} unseen queries to test; one epoch, "
        f"{args.batch_size} pairs a step, at most {args.max_length} tokens, {'bf16' if args.bf16 else 'fp32'}. Mean [lowest to highest] over seeds.",
        "",
        "| | learning rate | accuracy | " + " | ".join(f"against {name}" for name in rivals) + " | CPU s | wall s |",
        "|---|---|---|" + "---|" * len(rivals) + "---|---|",
    ]
    for arm, group in final.items():
        cells = [spread([run["accuracy"] for run in group])]
        cells += [spread([run["by_rival"].get(name, float("nan")) for run in group]) for name in rivals]
        cells += [f"{mean([run[key] for run in group]):.0f}" for key in ("cpu_seconds", "wall_seconds")]
        lines.append(f"| {arms[arm]} | {group[0]['learning_rate']:g} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Tuning: {counts['tune']['pairs']:,} pairs of {counts['tune']['queries']:,} training queries, accuracy on "
        f"{counts['judge']['pairs']:,} pairs of {counts['judge']['queries']:,} others.",
        "",
        "| | " + " | ".join(f"{rate:g}" for rate in args.learning_rates) + " |",
        "|---|" + "---|" * len(args.learning_rates),
    ]
    for arm in args.arms:
        tried = [results["runs"][f"{arm} tune lr={rate:g} seed=0"] for rate in args.learning_rates]
        lines.append(f"| {arms[arm]} | " + " | ".join(f"{run['accuracy']:.4f}" for run in tried) + " |")
    return "\n".join(lines)


def mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def spread(values: list[float]) -> str:
    """Mean and range, formatted."""
    return f"{mean(values):.4f} [{min(values):.4f} to {max(values):.4f}]"
