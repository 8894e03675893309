"""
How often a reward model takes the domain's answer out of n answers to a question, from the finished cells of a study.

    python benchmarks/published/best_of_n.py outputs/published/study-smollm2

Every test question of the DSP data has an answer of each domain and one of none. For n = 2 to 5, the answer of the domain is put with
every choice of n - 1 of the others, and the model takes the one with the highest reward. A general model and its customized
models judge the same answers. Writes a table and a figure beside the study's report; intervals are over questions.
"""

from __future__ import annotations

import argparse
import re
from math import comb
from pathlib import Path

import numpy as np

from rm_toolkit.evaluation.intervals import Bootstrap
from rm_toolkit.evaluation.pair_rewards import PairRewards, read_pair_rewards
from rm_toolkit.output.plotting import COLORS, GRAY, MARKERS, picture
from rm_toolkit.study.grid import merged_name


def main(argv: list[str] | None = None) -> None:
    """Reads the cells, prints the tables, draws the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="output folder of recipes/study.py")
    parser.add_argument("--set", default="dsp_{domain}", help="customized test set (default: %(default)s)")
    args = parser.parse_args(argv)
    text = []
    for domain, models in read_models(args.study, args.set).items():
        rates = {name: rates_of(pairs) for name, pairs in models.items()}
        text += [f"## {domain}", "", table(rates), ""]
        draw(rates, domain, args.study / f"best_of_n_{domain}.png")
    if not text:
        raise SystemExit(f"error: no finished CRFT cell of {args.study} has kept its rewards.")
    (args.study / "best_of_n.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def read_models(study: Path, pattern: str) -> dict[str, dict[str, list[PairRewards]]]:
    """Domain -> model -> rewards of each of its runs; the GRFT models are called `general`."""
    found: dict[str, dict[str, list[PairRewards]]] = {}
    for file in sorted(study.glob("cells/crft--*/*pairs.parquet")):
        parts = file.parent.name.split("--")
        strategy, domain = parts[-3], parts[-2]
        merged = re.fullmatch(r"merged-(.+)-pairs", file.stem)
        models = found.setdefault(domain, {"general": []})
        name = pattern.replace("{domain}", domain)
        models.setdefault(merged_name(strategy, merged[1]) if merged else strategy, []).append(
            read_pair_rewards(file)[name]
        )
    for file in sorted(study.glob("cells/grft--*/pairs.parquet")):
        sets = read_pair_rewards(file)
        for domain, models in found.items():
            if pattern.replace("{domain}", domain) in sets:
                models["general"].append(sets[pattern.replace("{domain}", domain)])
    return {domain: {name: runs for name, runs in models.items() if runs} for domain, models in found.items()}


def rates_of(runs: list[PairRewards]) -> dict[int, tuple[float, float, float]]:
    """For each n: how often the domain's answer is taken, with the low and high end of the interval."""
    taken: dict[int, list[np.ndarray]] = {}
    for pairs in runs:
        for n, values in taken_of(pairs).items():
            taken.setdefault(n, []).append(values)
    rates = {}
    for n, values in sorted(taken.items()):
        mean = np.mean(values, axis=0)
        low, high = Bootstrap().interval(mean, np.arange(len(mean))) or [float("nan")] * 2
        rates[n] = (float(mean.mean()), low, high)
    return rates


def taken_of(pairs: PairRewards) -> dict[int, np.ndarray]:
    """
    For each n, of shape `(num_questions,)`: the share of the choices of n - 1 rivals that the domain's answer beats. Only questions
    with all rivals count, so that every n is over the same questions.
    """
    beaten, rivals = (
        np.bincount(np.unique(pairs.prompt, return_inverse=True)[1], weights=weights)
        for weights in (pairs.margins > 0, np.ones(len(pairs.prompt)))
    )
    most = int(rivals.max())
    beaten = beaten[rivals == most].astype(int)
    return {n: np.array([comb(k, n - 1) / comb(most, n - 1) for k in beaten], dtype=float) for n in range(2, most + 2)}


def table(rates: dict[str, dict[int, tuple[float, float, float]]]) -> str:
    """The Markdown table, in percent."""
    counts = list(next(iter(rates.values())))
    lines = ["| model | " + " | ".join(f"n = {n}" for n in counts) + " |", "|---" * (len(counts) + 1) + "|"]
    lines.append("| chance | " + " | ".join(f"{100 / n:.0f}" for n in counts) + " |")
    for name, own in rates.items():
        cells = [f"{100 * own[n][0]:.1f} [{100 * own[n][1]:.0f}, {100 * own[n][2]:.0f}]" for n in counts]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rates: dict[str, dict[int, tuple[float, float, float]]], domain: str, path: Path) -> None:
    """One line per model over n, with chance."""
    with picture(path, 4.2) as figure:
        axis = figure.subplots()
        for k, (name, own) in enumerate(rates.items()):
            axis.plot(
                list(own),
                [100 * value for value, *_ in own.values()],
                marker=MARKERS[k % len(MARKERS)],
                color=COLORS[k % len(COLORS)],
                label=name,
            )
        counts = list(next(iter(rates.values())))
        axis.plot(counts, [100 / n for n in counts], "--", color=GRAY, label="chance")
        axis.set_xticks(counts)
        axis.set_xlabel("answers to choose from (n)")
        axis.set_ylabel(f"{domain} answer taken, %")
        axis.set_title(f"Best of n: the {domain} answer among n")
        figure.legend(loc="outside right upper")


if __name__ == "__main__":
    main()
