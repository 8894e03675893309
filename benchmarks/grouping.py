"""
Does `group_by_prompt` cost accuracy with small steps? Compares grouped and shuffled pairs, tuned the same way, on
unseen queries.

    python benchmarks/grouping.py --data PATH/domain_specific_preference.test.json --model outputs/published/sft
    python benchmarks/grouping.py --data … --model … --queries 40 --seeds 1 --steps 8    # a minute, to try it

The queries are split once (seeded) into training, judging and test queries. Every arm trains for one epoch on the same
pairs, at each step size and each learning rate of a grid. The grid is extended while the best rate is at its edge. An
arm is tested at the rate with the highest mean accuracy on the judging queries. Test accuracy is a mean over seeds.
The difference from shuffled pairs is paired (same queries and seeds) and resampled by query. The JSON file is written
after every run, and a second call skips the runs in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np


# How the pairs of a query are distributed over steps; "at most m" keeps up to m of them together.
SHUFFLED, GROUPED, AT_MOST = "shuffled", "grouped", "at most "


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="DSP file: [{query, responses: {domain: text}}]")
    parser.add_argument("--model", required=True, help="folder of a base LM or an encoder")
    parser.add_argument("--pooling-type", default="last", help="where the reward is read; encoders: average or cls")
    parser.add_argument("--domain", default="literature", help="domain whose answers are preferred")
    parser.add_argument(
        "--arms", nargs="+", default=[SHUFFLED, GROUPED], help="shuffled, grouped, 'at most 1', 'at most 2', …"
    )
    parser.add_argument("--steps", nargs="+", type=int, default=[8, 16, 64], help="pairs per optimizer step")
    parser.add_argument(
        "--learning-rates", nargs="+", type=float, default=[3e-4, 1e-3, 3e-3], help="initial grid of learning rates"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="number of runs per arm, step size and rate (seeds 0, 1, …)"
    )
    parser.add_argument(
        "--tune-seeds", type=int, default=None, help="number of them that tune the rate (default: all)"
    )
    parser.add_argument("--max-length", type=int, default=128, help="tokens per text, cut on the left")
    parser.add_argument("--micro-batch", type=int, default=16, help="maximum pairs per micro-batch")
    parser.add_argument("--queries", type=int, default=None, help="use only this many queries")
    parser.add_argument(
        "--parts", nargs=2, type=float, default=[0.6, 0.15], help="shares of queries for training and judging"
    )
    parser.add_argument("--split-seed", type=int, default=0, help="seed of the split by query")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/grouping.json"), help="JSON file, written after every run"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Does the runs that are missing and prints the table."""
    args = parse(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import torch
    import transformers
    from datasets import disable_progress_bars

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    results = Results(args)
    data = split_queries(args)
    sizes = {name: f"{len(set(rows['prompt_id']))} queries ({len(rows)} pairs)" for name, rows in data.items()}
    print(f"train {sizes['train']}, judge {sizes['judge']}, test {sizes['test']}", file=sys.stderr, flush=True)
    for step in args.steps:
        for arm in args.arms:
            run_arm(args, results, data, arm, step)
        print(table(args, results), flush=True)


def run_arm(args: argparse.Namespace, results: Results, data: dict[str, Any], arm: str, step: int) -> None:
    """Tunes the rate of an arm at one step size, extending the grid if needed, and runs all seeds at the best rate."""
    grid = sorted({*map(rounded, args.learning_rates), *results.judged(arm, step)})
    while True:
        for rate in grid:
            for seed in range(results.tune_seeds):
                results.cell(arm, step, rate, seed, partial(run, args, data, arm, step, rate, seed))
        best = results.best_rate(arm, step)
        wider = {grid[0]: rounded(grid[0] / 3), grid[-1]: rounded(grid[-1] * 3)}
        if best not in wider or len(grid) >= 8:
            break
        grid = sorted([*grid, wider[best]])
    for seed in range(args.seeds):
        results.cell(arm, step, best, seed, partial(run, args, data, arm, step, best, seed))


def rounded(rate: float) -> float:
    """A rate rounded to three digits, as it is stored in the results."""
    return float(f"{rate:.3g}")


class Results:
    """Finished runs in a JSON file, looked up by arm, step size, rate and seed."""

    def __init__(self, args: argparse.Namespace):
        names = ("domain", "model", "pooling_type", "max_length", "queries", "parts", "split_seed")
        settings = {name: getattr(args, name) for name in names}
        self.path = args.output
        self.tune_seeds = args.tune_seeds or args.seeds
        self.values: dict[str, Any] = {"settings": settings, "runs": {}}
        if self.path.exists():
            self.values = json.loads(self.path.read_text(encoding="utf-8"))
            if self.values["settings"] != settings:
                sys.exit(
                    f"error: {self.path} holds runs of other settings ({self.values['settings']}); give another --output."
                )

    def cell(self, arm: str, step: int, rate: float, seed: int, compute: Any) -> None:
        """Computes a run unless the file has it, and writes the file."""
        key = f"{arm}, {step} pairs a step, lr={rate:.3g}, seed={seed}"
        if key not in self.values["runs"]:
            self.values["runs"][key] = {
                "arm": arm,
                "step": step,
                "rate": rounded(rate),
                "seed": seed,
            } | compute()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.values) + "\n", encoding="utf-8")
            os.replace(temporary, self.path)
        done = self.values["runs"][key]
        scores = f"judge {np.mean(done['judge']):.4f}, test {np.mean(done['test']):.4f}"
        print(f"{key}: {scores}, {done['seconds']:.0f} s", file=sys.stderr, flush=True)

    def of(self, arm: str, step: int, rate: float | None = None) -> list[dict[str, Any]]:
        """Runs of an arm at a step size (and a rate, if given), in the order of their seeds."""
        found = [run for run in self.values["runs"].values() if (run["arm"], run["step"]) == (arm, step)]
        found = [run for run in found if rate is None or run["rate"] == rounded(rate)]
        return sorted(found, key=lambda run: run["seed"])

    def judged(self, arm: str, step: int) -> dict[float, float]:
        """Mean accuracy on the judging queries by rate, for the rates that have runs with all tuning seeds."""
        wins: dict[float, dict[int, list[float]]] = {}
        for run in self.of(arm, step):
            if run["seed"] < self.tune_seeds:
                wins.setdefault(run["rate"], {})[run["seed"]] = run["judge"]
        whole = {rate: list(of_seed.values()) for rate, of_seed in wins.items() if len(of_seed) == self.tune_seeds}
        return {rate: float(np.mean(whole[rate])) for rate in sorted(whole)}

    def best_rate(self, arm: str, step: int) -> float:
        """The rate with the highest mean accuracy on the judging queries."""
        judged = self.judged(arm, step)
        return max(judged, key=judged.__getitem__)


def split_queries(args: argparse.Namespace) -> dict[str, Any]:
    """
    Splits the pairs by query.

    Returns:
        `dict[str, Dataset]`: Pairs of `train`, `judge` and `test`.
    """
    from rm_toolkit.data.mixture import load_datasets

    spec = {"path": args.data, "source": "dsp", "domain": args.domain, "layout": "pairs"}
    rows = load_datasets({args.domain: spec}, "train", seed=0)[args.domain]
    queries = sorted(set(rows["prompt_id"]))
    random.Random(args.split_seed).shuffle(queries)
    queries = queries[: args.queries]
    ends = np.cumsum([round(share * len(queries)) for share in args.parts])
    parts = {name: set(part.tolist()) for name, part in zip(("train", "judge", "test"), np.split(queries, ends))}
    return {name: rows.filter(lambda row, part=part: row["prompt_id"] in part) for name, part in parts.items()}


def arrange(pairs: Any, arm: str, seed: int) -> tuple[Any, bool]:
    """
    The training rows of an arm, and whether `group_by_prompt` is on. The pairs of a row stay together when rows are
    shuffled, so for "at most m" a row is the better answer and up to m of its rivals, drawn anew for each seed.
    """
    from datasets import Dataset

    if not arm.startswith(AT_MOST):
        return pairs, arm == GROUPED
    of_query: dict[str, list[dict[str, Any]]] = {}
    for row in pairs:
        of_query.setdefault(row["prompt_id"], []).append(row)
    rows, most, rng = [], int(arm.removeprefix(AT_MOST)), random.Random(seed)
    for group in of_query.values():
        rng.shuffle(group)
        for begin in range(0, len(group), most):
            part = group[begin : begin + most]
            completions = [part[0]["chosen"], *(row["rejected"] for row in part)]
            rows.append({"prompt": part[0]["prompt"], "completions": completions, "scores": [1.0] + [0.0] * len(part)})
    return Dataset.from_list(rows), False


def run(args: argparse.Namespace, data: dict[str, Any], arm: str, step: int, rate: float, seed: int) -> dict[str, Any]:
    """Trains one epoch; returns the wins (1, 0, or 0.5 for a tie) of the judging and the test pairs, and seconds."""
    import torch
    from against_trl import count_wins

    from rm_toolkit.batches.tokenization import tokenize_preferences
    from rm_toolkit.models.reward_model import RewardModel
    from rm_toolkit.models.settings import RewardModelSettings
    from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
    from rm_toolkit.training.config import RewardModelConfig
    from rm_toolkit.training.trainer import RewardModelTrainer

    settings = RewardModelSettings(pooling_type=args.pooling_type, max_length=args.max_length)
    model = RewardModel.from_pretrained(args.model, settings, seed=seed)
    tokenizer = load_tokenizer(args.model)
    prepare_tokenizer(tokenizer, model.config, max_length=args.max_length, pooling_type=args.pooling_type)
    rows, grouped = arrange(data["train"], arm, seed)
    with tempfile.TemporaryDirectory() as folder:
        config = RewardModelConfig(
            output_dir=folder,
            learning_rate=rate,
            seed=seed,
            num_train_epochs=1,
            warmup_steps=0.1,
            pairs_per_step=step,
            per_device_train_batch_size=min(step, args.micro_batch),
            pooling_type=args.pooling_type,
            max_length=args.max_length,
            group_by_prompt=grouped,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            logging_steps=10_000,
            disable_tqdm=True,
        )
        trainer = RewardModelTrainer(model, config, rows, processing_class=tokenizer)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    wins = {}
    for name in ("judge", "test"):
        held_out = tokenize_preferences(
            data[name], tokenizer, max_length=args.max_length, name=name, show_progress=False
        )
        _, found = count_wins(model.eval(), held_out, tokenizer.pad_token_id, torch.device("cpu"))
        wins[name] = found[np.argsort(held_out.row, kind="stable")].tolist()
    return {**wins, "seconds": seconds}


def table(args: argparse.Namespace, results: Results) -> str:
    """Table of each arm's test accuracy at its best rate, and its paired difference from shuffled pairs."""
    from rm_toolkit.evaluation.intervals import Bootstrap

    prompt = np.array(test_prompts(args))
    lines = [
        "| pairs a step | arm | best rate (accuracy on the judging queries of each) | accuracy | seeds | - shuffled |",
        "|---|---|---|---|---|---|",
    ]
    for step in args.steps:
        base = None
        for arm in [arm for arm in args.arms if results.judged(arm, step)]:
            best = results.best_rate(arm, step)
            wins = np.array([run["test"] for run in results.of(arm, step, best)])
            base = wins if arm == SHUFFLED else base
            tried = ", ".join(f"{rate:g}: {judged:.3f}" for rate, judged in results.judged(arm, step).items())
            seeds = " ".join(f"{value:.3f}" for value in wins.mean(axis=1))
            difference = ""
            if arm != SHUFFLED and base is not None and len(base) == len(wins):
                paired = (wins - base).mean(axis=0)
                low, high = Bootstrap().interval(paired, prompt) or (np.nan, np.nan)
                difference = f"{paired.mean():+.3f} ({low:+.3f} to {high:+.3f})"
            lines.append(f"| {step} | {arm} | {best:g} ({tried}) | {wins.mean():.3f} | {seeds} | {difference} |")
    return "\n".join(lines)


def test_prompts(args: argparse.Namespace) -> list[str]:
    """The query of each test pair."""
    return split_queries(args)["test"]["prompt_id"]


if __name__ == "__main__":
    main()
