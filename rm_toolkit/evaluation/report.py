"""`report.md`: the tables and figures of an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..output.markdown import image, number, table, with_interval


READING = """## How to read this

- **Accuracy**: share of pairs whose chosen response has the higher reward; equal rewards (ties) count half. Brackets hold
  the {level:.0%} interval: {resamples:,} bootstrap resamples of the prompts, each with all of its pairs (percentiles). Where
  every pair is right, or none is, it is the Wilson interval with each prompt as one trial.
- **Longer wins**: accuracy of the rule "the completion with more characters is the better one" on the same pairs.
- **Margin**: mean reward of the chosen minus the rejected response, in logits. **Loss**: the training objective, mean
  −ln sigmoid(margin), in nats; a margin in the data is subtracted first. Without one, 0.693 is chance.
- **Brier**: mean (1 − p)² with p = sigmoid(margin), nothing subtracted; 0.25 is chance. **ECE**: mean distance between
  accuracy and the stated probability max(p, 1 − p), over ten equally wide bins from 0.5 to 1. Neither depends on which
  of the two responses is named first.
- **Length**: correlation of the reward of each distinct text with the characters of its completion.
- **Cut**: texts longer than the model's maximum length; they lost their beginning.
"""
DIFFERENCES = "Difference in accuracy on the same pairs, with its interval over the same resampled prompts."
BY_LENGTH = "Accuracy (and pairs) by the length of the chosen over that of the rejected response:"
Table = tuple[list[str], list[list[str]]]  # headings and rows


def write_report(metrics: dict[str, Any], figures: dict[str, list[tuple[str, str]]], path: Path) -> None:
    """
    Writes the report.

    Args:
        metrics (`dict`): Contents of `metrics.json`.
        figures (`dict[str, list[tuple[str, str]]]`): From [`~rm_toolkit.evaluation.figures.draw_figures`].
        path (`Path`): The file; the figures are beside it in `figures/`.
    """
    names = list(metrics["results"])
    parts = [f"# Evaluation of {', '.join(names)}", table(*overview(metrics))]
    if len(names) > 1:
        parts += ["## Differences", DIFFERENCES, table(*differences(metrics))]
    parts += [image(f"figures/{file}", caption) for file, caption in figures[""]]
    for name in names:
        parts += [f"## {name}", model_section(metrics["results"][name])]
        parts += [image(f"figures/{file}", caption) for file, caption in figures[name]]
    parts += [READING.format(**metrics["bootstrap"]), "## How this was made", provenance(metrics)]
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def overview(metrics: dict[str, Any]) -> Table:
    """Accuracy of every model on every test set, beside the rule that prefers the longer text."""
    results = metrics["results"]
    first = next(iter(results.values()))
    rows = [
        [
            test,
            *(with_interval(own[test]["accuracy"]) for own in results.values()),
            number(first[test]["longer_wins"]),
            f"{values['num_pairs']:,}",
            f"{values['num_prompts']:,}",
        ]
        for test, values in metrics["datasets"].items()
    ]
    accuracy = ["accuracy"] if len(results) == 1 else list(results)
    return ["test set", *accuracy, "longer wins", "pairs", "prompts"], rows


def differences(metrics: dict[str, Any]) -> Table:
    """Paired differences; an interval without zero is marked."""
    rows = []
    for row in metrics["differences"]:
        clear = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
        models = f"{row['second']} − {row['first']}"
        rows.append([f"{row['dataset']}: {models}", with_interval(row, sign=True), "yes" if clear else "no"])
    return ["test set", "difference", "beyond chance"], rows


def model_table(results: dict[str, Any]) -> Table:
    """Margins and calibration of one model on each test set."""
    rows = [
        [
            test,
            number(values["margin"], sign=True),
            number(values["loss"]),
            number(values["brier"]),
            number(values["ece"]),
            f"{values['num_ties']:,}",
            f"{values['num_label_ties']:,}",
            number(values["length"]["pearson"], 2, sign=True),
            number(values["length"]["spearman"], 2, sign=True),
            f"{values['num_truncated']:,}",
            f"{number(values['reward']['mean'], 2)} ± {number(values['reward']['std'], 2)}",
        ]
        for test, values in results.items()
    ]
    columns = ["test set", "margin", "loss", "Brier", "ECE", "ties", "equal scores"]
    return [*columns, "length, Pearson", "length, Spearman", "cut", "reward"], rows


def shown_tags(results: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yields `(test set, tag, value, its numbers)`; tags with a single value are skipped, as they repeat the whole set."""
    for test, values in results.items():
        for tag, entries in values["by_tag"].items():
            if len(entries) > 1:
                for value, own in entries.items():
                    yield test, tag, value, own


def tag_table(results: dict[str, Any]) -> Table:
    """Accuracy and calibration of one model by tag; no rows if no tag has several values."""
    rows = [
        [
            f"{test}, {tag.replace('_', ' ')} {value}",
            with_interval(own["accuracy"]),
            number(own["longer_wins"]),
            number(own["margin"], sign=True),
            number(own["brier"]),
            number(own["ece"]),
            f"{own['num_ties']:,}",
            f"{own['num_pairs']:,}",
        ]
        for test, tag, value, own in shown_tags(results)
    ]
    return ["part", "accuracy", "longer wins", "margin", "Brier", "ECE", "ties", "pairs"], rows


def length_table(results: dict[str, Any]) -> Table:
    """Accuracy and pairs of one model by length ratio."""
    rows = [
        [test, *(f"{number(row['accuracy'])} ({row['num_pairs']:,})" for row in values["length"]["by_ratio"])]
        for test, values in results.items()
    ]
    return ["test set", *(row["ratio"] for row in next(iter(results.values()))["length"]["by_ratio"])], rows


def made_with(metrics: dict[str, Any]) -> tuple[Table, Table, str]:
    """Models, data, and versions in a sentence, for reproducing the report."""
    models = [
        [
            name,
            own["architecture"],
            f"{own['num_parameters']:,}",
            own["pooling_type"],
            own["data_format"],
            str(own["max_length"]),
            " ".join(part for part in (own["stage"], own["domain"]) if part) or "–",
        ]
        for name, own in metrics["models"].items()
    ]
    data = [
        [name, own["fingerprint"], f"{own['num_rows']:,}", f"{own['num_texts']:,}", f"{own['num_label_ties']:,}"]
        for name, own in metrics["datasets"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    return (
        (["model", "architecture", "parameters", "pooling", "format", "max length", "stage"], models),
        (["test set", "fingerprint", "rows", "texts", "pairs with equal scores"], data),
        f"rm_toolkit {metrics['rm_toolkit']}, {versions}; {metrics['device']}; seed {metrics['seed']}.",
    )


def model_section(results: dict[str, Any]) -> str:
    """Everything else about one model: margins and calibration, length, and accuracy by tag."""
    parts = [table(*model_table(results))]
    columns, tagged = tag_table(results)
    if tagged:
        parts.append(table(columns, tagged))
    parts += [BY_LENGTH, table(*length_table(results))]
    return "\n\n".join(parts)


def provenance(metrics: dict[str, Any]) -> str:
    """Models, data, versions and command."""
    models, data, versions = made_with(metrics)
    parts = [table(*models), table(*data), versions]
    if metrics["command"]:
        parts.append(f"```bash\n{shlex.join(metrics['command'])}\n```")
    return "\n\n".join(parts)
