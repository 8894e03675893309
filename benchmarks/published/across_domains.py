"""
What customizing for one domain does to the others: every model of a study, judged by the preferences of every domain.

    python benchmarks/published/across_domains.py outputs/published/study-smollm2

All domains of the DSP data share their questions and answers, and differ in whose answer is preferred. So the rewards
that a model gave to its own test set are all that is needed: they are read from the finished cells, and no model runs.
Only questions with all five answers count. Accuracy in percent: how often an answer of the column's domain has a higher
reward than another one. Rows are the domains that models were customized for, and the GRFT models.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from build_datasets import DOMAINS

from rm_toolkit.data.pairing import pair_up
from rm_toolkit.evaluation.metrics import wins_of
from rm_toolkit.evaluation.pair_rewards import PairRewards, read_pair_rewards


ANSWERS = (*DOMAINS, "normal")  # in the order of the released file, which built datasets keep


def main(argv: list[str] | None = None) -> None:
    """Prints one matrix per strategy, and writes them beside the study's report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="output folder of recipes/study.py")
    args = parser.parse_args(argv)
    strategies, general = read_rewards(args.study)
    if not strategies:
        raise SystemExit(f"error: no finished CRFT cell of {args.study} has kept its rewards.")
    text = []
    for strategy, rows in strategies.items():
        text += [f"## {strategy}", "", table({"general": general} | rows if general else rows), ""]
    (args.study / "across_domains.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def read_rewards(study: Path) -> tuple[dict[str, dict[str, list[np.ndarray]]], list[np.ndarray]]:
    """Strategy -> domain -> rewards of each run, as [`answers_of`] gives them; and those of the GRFT runs."""
    strategies: dict[str, dict[str, list[np.ndarray]]] = {}
    for file in sorted(study.glob("cells/crft--*/pairs.parquet")):
        *_, strategy, domain, _ = file.parent.name.split("--")
        rewards = answers_of(read_pair_rewards(file)[f"dsp_{domain}"], domain)
        strategies.setdefault(strategy, {}).setdefault(domain, []).append(rewards)
    general = []
    for file in sorted(study.glob("cells/grft--*/pairs.parquet")):
        own = ((name.removeprefix("dsp_"), pairs) for name, pairs in read_pair_rewards(file).items())
        general += [answers_of(pairs, domain) for domain, pairs in own if domain in DOMAINS][:1]
    return strategies, general


def answers_of(pairs: PairRewards, domain: str) -> np.ndarray:
    """
    Rewards of all answers to each question, of shape `(num_questions, 5)`, in the order of `ANSWERS`.

    Args:
        pairs (`PairRewards`): The pairs of a domain's test set, its answer against each of the others, in the order in
            which the toolkit pairs a row.
        domain (`str`): The domain.
    """
    _, first, counts = np.unique(pairs.prompt, return_index=True, return_counts=True)
    own = ANSWERS.index(domain)
    others = pair_up([float(name == domain) for name in ANSWERS]).order[1:]
    rewards = np.empty((int((counts == len(others)).sum()), len(ANSWERS)))
    for row, begin in zip(rewards, np.sort(first[counts == len(others)])):
        block = slice(begin, begin + len(others))
        row[own], row[others] = pairs.better[begin], pairs.worse[block]
    return rewards


def accuracies(rewards: np.ndarray) -> list[float]:
    """How often each domain's answer has a higher reward than another one; equal rewards count half."""
    found = []
    for own in range(len(DOMAINS)):
        margins = rewards[:, [own]] - np.delete(rewards, own, axis=1)
        found.append(float(np.mean(wins_of(margins))))
    return found


def table(rows: dict[str, list[np.ndarray]]) -> str:
    """The Markdown table: a mean over runs in each cell, in percent."""
    lines = ["| customized for | " + " | ".join(DOMAINS) + " |", "|---" + "|---:" * len(DOMAINS) + "|"]
    for name in ("general", *DOMAINS):
        if name in rows:
            values = np.mean([accuracies(rewards) for rewards in rows[name]], axis=0)
            lines.append(f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
