"""
What a reward model must beat on the held-out published prompts: "the longer answer wins", and logistic regression on words.

    python benchmarks/published/baselines.py                     # datasets of benchmarks/published/build_datasets.py
    python benchmarks/published/baselines.py --data DIR
    python benchmarks/published/baselines.py --runs MiniLM=outputs/published/study-minilm/cells/grft--minilm--general--lm0--seed0/pairs.parquet

The regression sees TF-IDF of words and word pairs, chosen minus rejected. It is trained on the prompts that GRFT or CRFT
are trained on: on all general sets at once, on each general set, and on each domain. `--runs` adds models by the rewards that
their runs have kept, and compares them with the rules pair by pair on the general sets. Accuracy in percent, with the half width of the
95% interval over prompts; that of the mean takes the sets as independent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from build_datasets import DOMAINS, GENERAL
from datasets import disable_progress_bars

from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.evaluation.intervals import Bootstrap
from rm_toolkit.evaluation.lengths import longer_wins
from rm_toolkit.evaluation.metrics import wins_of
from rm_toolkit.evaluation.pair_rewards import read_pair_rewards


def main(argv: list[str] | None = None) -> None:
    """Prints a table, and writes the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("outputs/published"), help="folder of the datasets")
    runs = {"nargs": "*", "default": [], "type": named_file, "metavar": "NAME=FILE"}
    parser.add_argument("--runs", **runs, help="rewards of finished runs (Parquet)")
    parser.add_argument("--output", type=Path, help="also write the numbers to this JSON file")
    args = parser.parse_args(argv)
    disable_progress_bars()
    domains = [f"dsp-{domain}" for domain in DOMAINS]
    train = pairs({name: str(args.data / name) for name in (*GENERAL, *domains)}, "train")
    test = pairs({name: str(args.data / name) for name in (*GENERAL, *domains)}, "test")
    pooled = WordModel([pair for name in GENERAL for pair in train[name]])
    found: dict[str, dict[str, list[float]]] = {}
    rules: dict[str, dict[str, np.ndarray]] = {}
    for name, rows in test.items():
        own = WordModel(train[name])
        rules[name] = {
            "longer answer wins": longer_wins(*lengths(rows)),
            "TF-IDF, trained on this set": own.wins(rows),
        }
        if name in GENERAL:
            rules[name]["TF-IDF, trained on all general sets"] = pooled.wins(rows)
        found[name] = {rule: of_wins(wins, rows) for rule, wins in rules[name].items()}
    better: dict[str, dict[str, list[list[float]]]] = {}
    for name, file in args.runs:
        for own, judged in read_pair_rewards(file).items():
            row = own.replace("dsp_", "dsp-")
            if len(judged.prompt) != len(test.get(row, ())):
                raise SystemExit(f"error: '{own}' of {file} does not have the pairs of {args.data / row}.")
            wins = wins_of(judged.margins)
            found[row][name] = interval(wins, judged.prompt)
            if row in GENERAL and np.all(np.diff(judged.prompt) > 0):  # a pair a prompt, in the order of the rows
                for rule, others in rules[row].items():
                    better.setdefault(name, {}).setdefault(rule, []).append(of_difference(wins - others))
    print(table(found, {name: len(rows) for name, rows in test.items()}))
    if better:
        print("\n" + differences(better))
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def named_file(text: str) -> tuple[str, str]:
    """A column's name and a file."""
    name, found, file = text.partition("=")
    if not (name and found and file):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=FILE")
    return name, file


def pairs(specs: dict[str, str], split: str) -> dict[str, list[dict[str, Any]]]:
    """Pairs of each dataset: rows with `chosen`, `rejected` and `prompt_id`."""
    return {name: list(rows) for name, rows in load_datasets(specs, split, layout="pairs").items()}


def lengths(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Characters of the chosen and of the rejected answers."""
    return tuple(np.array([len(row[name]) for row in rows], dtype=float) for name in ("chosen", "rejected"))


class WordModel:
    """Logistic regression on TF-IDF of the chosen answer minus that of the rejected one."""

    def __init__(self, rows: list[dict[str, Any]]):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self.words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        self.words.fit([row[name] for row in rows for name in ("chosen", "rejected")])
        # Every other pair is turned round, so that there are two classes.
        features = self.difference(rows)
        signs = np.where(np.arange(len(rows)) % 2 == 0, 1, -1)
        self.model = LogisticRegression(C=10.0, max_iter=2000, fit_intercept=False)
        self.model.fit(features.multiply(signs[:, None]).tocsr(), signs)

    def difference(self, rows: list[dict[str, Any]]) -> Any:
        """A sparse matrix of one row per pair."""
        return self.words.transform([row["chosen"] for row in rows]) - self.words.transform(
            [row["rejected"] for row in rows]
        )

    def wins(self, rows: list[dict[str, Any]]) -> np.ndarray:
        """1 for a pair ranked correctly, 0.5 for equal scores, else 0."""
        return wins_of(self.model.decision_function(self.difference(rows)))


def of_wins(wins: np.ndarray, rows: list[dict[str, Any]]) -> list[float]:
    """Accuracy with the low and high end of its interval."""
    return interval(wins, np.unique([row["prompt_id"] for row in rows], return_inverse=True)[1])


def of_difference(values: np.ndarray) -> list[float]:
    """Mean with the low and high end of its interval, of one value a prompt."""
    return [float(values.mean()), *(Bootstrap().interval(values, np.arange(len(values))) or [float("nan")] * 2)]


def interval(wins: np.ndarray, prompts: np.ndarray) -> list[float]:
    """The same, from the number of each pair's prompt."""
    return [float(wins.mean()), *(Bootstrap().accuracy_interval(wins, prompts) or [float("nan")] * 2)]


def table(found: dict[str, dict[str, list[float]]], counts: dict[str, int]) -> str:
    """The Markdown table."""
    names = list(dict.fromkeys(name for rules in found.values() for name in rules))
    lines = ["| test set | pairs | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for own, rules in found.items():
        cells = [
            f"{100 * rules[n][0]:.1f} ± {50 * (rules[n][2] - rules[n][1]):.1f}" if n in rules else "" for n in names
        ]
        lines.append(f"| {own} | {counts[own]} | " + " | ".join(cells) + " |")
    general = [[rules[name] for own, rules in found.items() if own in GENERAL and name in rules] for name in names]
    lines.append("| mean of the general sets | | " + " | ".join(map(mean_of_sets, general)) + " |")
    return "\n".join(lines)


def differences(better: dict[str, dict[str, list[list[float]]]]) -> str:
    """The Markdown table of what each run ranks better than each rule, on the same pairs."""
    rows = [
        f"| {name} | {rule} | " + " | ".join(f"{100 * d:+.1f} ± {50 * (b - a):.1f}" for d, a, b in sets)
        for name, rules in better.items()
        for rule, sets in rules.items()
        if len(sets) == len(GENERAL)
    ]
    means = [
        mean_of_sets(sets, "+") for rules in better.values() for sets in rules.values() if len(sets) == len(GENERAL)
    ]
    head = ["| run | better than | " + " | ".join(GENERAL) + " | mean |", "|---" * (len(GENERAL) + 3) + "|"]
    return "\n".join(head + [f"{row} | {mean} |" for row, mean in zip(rows, means)])


def mean_of_sets(sets: list[list[float]], sign: str = "") -> str:
    """Mean of independent test sets, with its half width."""
    values, low, high = np.array(sets).T
    return f"{100 * values.mean():{sign}.1f} ± {50 * np.sqrt(((high - low) ** 2).sum()) / len(sets):.1f}"


if __name__ == "__main__":
    main()
