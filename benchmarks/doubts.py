"""
Recall and precision of `rm-toolkit doubt` on labels that were flipped on purpose.

    python benchmarks/doubts.py --output outputs/doubts                          # the samples, minutes on a CPU
    python benchmarks/doubts.py --output outputs/doubts-dsp --config benchmarks/published/grft.yaml \
        --train dsp='{path: domain_specific_preference.test.json, source: dsp, domain: literature}' \
        -- --model_name_or_path outputs/published/minilm --pooling_type cls --learning_rate 1e-4 \
        --num_train_epochs 1 --max_length 128 --replay_datasets '{}'

A random share of the pairs in each training set is flipped. The command then runs as a user would run it, and its list
is compared with the flipped pairs. Labels that were already wrong count as false alarms. A second call resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


DEFAULT_TRAIN = [
    "helpful={path: data/samples/hh/helpful-base, source: hh}",
    "harmless={path: data/samples/hh/harmless-base, source: hh}",
]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line; arguments after `--` are settings of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the data, the folds and results.json")
    parser.add_argument("--config", default="recipes/tiny/grft.yaml", help="the recipe")
    parser.add_argument("--train", nargs="+", default=DEFAULT_TRAIN, metavar="NAME=SPEC", help="training sets")
    parser.add_argument("--share", type=float, default=0.05, help="share of the pairs to flip")
    parser.add_argument("--folds", type=int, default=5, help="number of folds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the flips")
    parser.add_argument("flags", nargs="*", help="settings of the recipe, after --")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Flips labels, searches for them, compares, and prints the table."""
    args = parse(argv)
    from rm_toolkit.cli import main as run_command
    from rm_toolkit.data.specs import parse_named_specs

    planted, specs = plant(parse_named_specs(args.train, "--train"), args)
    words = ["doubt", "--config", args.config, "--folds", str(args.folds), "--output", str(args.output / "search")]
    words += [*args.flags, "--train_datasets", json.dumps(specs)]
    results = {}
    for name, more in (("raw p", []), ("calibrated p", ["--calibrate"])):
        code = run_command([*words, *more])
        if code:
            sys.exit(code)
        results[name] = compare(args.output / "search", planted)
    (args.output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    columns = list(next(iter(results.values())))
    print("| p | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for name, found in results.items():
        cells = (f"{value:.3f}" if isinstance(value, float) else f"{value:,}" for value in found.values())
        print(f"| {name} | " + " | ".join(cells) + " |")


def plant(specs: dict[str, Any], args: argparse.Namespace) -> tuple[set[str], dict[str, Any]]:
    """Saves each set with some pairs flipped. Returns the ids of the flipped pairs and the specs of the saved sets."""
    from datasets import DatasetDict

    from rm_toolkit.data.drop_list import pair_ids
    from rm_toolkit.data.mixture import load_datasets

    planted: set[str] = set()
    written = {}
    for number, (name, data) in enumerate(load_datasets(specs, "train", layout="pairs").items()):
        rng = np.random.default_rng([args.seed, number])
        flipped = set(rng.choice(len(data), size=round(args.share * len(data)), replace=False).tolist())
        turned = data.map(turn_round, with_indices=True, fn_kwargs={"flipped": flipped}, load_from_cache_file=False)
        keys = list(pair_ids(turned))
        planted |= {keys[row] for row in flipped}
        folder = args.output / "data" / name
        if not folder.exists():
            DatasetDict({"train": turned}).save_to_disk(folder)
        written[name] = {"path": str(folder), "split": "train"}
    return planted, written


def turn_round(row: dict[str, Any], number: int, flipped: set[int]) -> dict[str, Any]:
    """Swaps the two texts of a flipped pair. Scores and tags stay, as if an annotator had mixed up the texts."""
    return {"chosen": row["rejected"], "rejected": row["chosen"]} if number in flipped else {}


def compare(search: Path, planted: set[str]) -> dict[str, Any]:
    """
    Compares the list of a search with the flipped pairs.

    Args:
        search (`Path`): Output folder of the search.
        planted (`set[str]`): Ids of the flipped pairs.

    Returns:
        `dict`: Counts; precision and recall of the list; precision among the n pairs with the lowest p, where n is the
        number of flipped pairs; and average precision over all pairs ranked by p.
    """
    import pyarrow.parquet
    from sklearn.metrics import average_precision_score

    table = pyarrow.parquet.read_table(search / "pairs.parquet").to_pydict()
    summary = json.loads((search / "summary.json").read_text(encoding="utf-8"))
    lines = (search / "doubts.jsonl").read_text(encoding="utf-8").splitlines()
    listed = [json.loads(line)["pair_id"] in planted for line in lines]
    is_planted = np.array([key in planted for key in table["pair_id"]])
    p = np.array(table["p"])
    first = np.argsort(p, kind="stable")[: int(is_planted.sum())]
    return {
        "pairs": len(p),
        "flipped": int(is_planted.sum()),
        "accuracy out of fold": summary["accuracy"],
        "threshold": summary["threshold"],
        "listed": len(listed),
        "precision": float(np.mean(listed)) if listed else float("nan"),
        "recall": float(np.sum(listed) / is_planted.sum()),
        "precision at the number flipped": float(is_planted[first].mean()),
        "average precision": float(average_precision_score(is_planted, -p)),
    }


if __name__ == "__main__":
    main()
