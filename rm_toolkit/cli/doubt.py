"""`rm-toolkit doubt --config RECIPE --output DIR`: training pairs whose labels out-of-fold models contradict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..output.ending import hint_if_stopped
from ..output.ranges import Number
from .options import DEVICE, PLACE


# Unknown arguments are settings of the recipe.
TAKES_RECIPE_FLAGS = True
LOW_ACCURACY = 0.75  # out of fold: fewer labels than a quarter are wrong in most data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = (
        "example:\n  rm-toolkit doubt --config recipes/tiny/grft.yaml --folds 5 --output outputs/doubt\n"
        "to try it quickly:\n  rm-toolkit doubt --config recipes/tiny/grft.yaml --folds 2 --max_steps 10 --output outputs/doubt-try\n\n"
        "The recipe runs once per fold, on the training data without that fold (no prompt is in two folds), and its\n"
        "model judges the pairs of the fold. DIR/doubts.jsonl lists the contradicted labels, the strongest first:\n"
        "delete the lines whose label is right, and pass the rest to `rm-toolkit build-data --drop-pairs`. If it was\n"
        "stopped, the same command continues. Any setting of the recipe can be given as a flag too: --seed 1 --max_length 256"
    )
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="the recipe; its test sets are not read")
    add(
        "--output",
        type=PLACE,
        required=True,
        metavar="DIR",
        help="folder for doubts.jsonl, summary.json and the folds",
    )
    add("--stage", choices=("grft", "crft"), default="grft", help="stage of the recipe (default grft)")
    add("--folds", type=Number(2, 100, whole=True), default=5, help="models to train (default 5)")
    add(
        "--threshold",
        type=Number(0, 0.5, above=True),
        help="list labels whose out-of-fold probability p is at most this (default: 1 - mean p, at most 0.5)",
    )
    add("--calibrate", action="store_true", help="first divide the margins of each fold by its best temperature")
    add("--accelerate-config", metavar="FILE", help="launch config of the runs, from accelerate_configs/")
    add("--device", type=DEVICE, help="device that scores a fold, such as cuda:1 (default: a GPU where there is one)")
    add("--keep-models", action="store_true", help="keep the model of each fold")
    add("--overwrite", action="store_true", help="start over in a folder of another search")


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [args.output]


def run(args: argparse.Namespace) -> None:
    """Trains what is missing, writes the list, prints the counts."""
    from ..output.console import console, print_table
    from ..study.doubt import DoubtRun
    from ..study.doubt_report import Doubts
    from ..study.folds import make_folds

    search = DoubtRun(
        args.output,
        args.config,
        args.recipe_flags,
        args.stage,
        find_script(args.stage),
        folds=args.folds,
        device=args.device,
        keep_models=args.keep_models,
    )
    if args.accelerate_config is not None:
        if not Path(args.accelerate_config).is_file():
            raise InputError(f"--accelerate-config {args.accelerate_config}: no such file.")
        search.launch = [*search.launch, "--config_file", args.accelerate_config]
    datasets, seed = load_training_data(args.config, args.recipe_flags)
    search.begin(search.identity(datasets, seed), args.overwrite)
    with hint_if_stopped("The same command continues and keeps the folds that are done."):
        found = search.run(datasets, make_folds(datasets, args.folds, seed))
    doubts = Doubts.find(found, threshold=args.threshold, calibrate=args.calibrate)
    how = {
        "command": args.command_line,
        "stage": args.stage,
        "folds": args.folds,
        "seed": seed,
        "calibrated": args.calibrate,
        "rule": "p <= threshold and p < 0.5" + ("" if args.threshold else "; threshold = 1 - mean p, at most 0.5"),
    }
    summary = doubts.save(args.output, how)
    parts = {**summary["by_dataset"], **({"all": summary} if len(summary["by_dataset"]) > 1 else {})}
    print_table(
        ["training set", "pairs", "out-of-fold accuracy", "mean p", "doubted"],
        [
            [
                name,
                f"{own['num_pairs']:,}",
                f"{own['accuracy']:.4f}",
                f"{own['mean_p']:.4f}",
                f"{own['num_doubted']:,}",
            ]
            for name, own in parts.items()
        ],
    )
    for line in likely_model_errors(summary):
        console.print(line)
    if summary["mean_p"] <= 0.5:
        console.print("warning: out of fold the models do no better than chance, so their contradictions say little.")
    console.print(
        f"wrote {args.output}: doubts.jsonl (p up to {summary['threshold']:.4f}), pairs.parquet, summary.json. "
        f"Delete the lines whose label is right; `rm-toolkit build-data --drop-pairs` leaves out the rest."
    )


def likely_model_errors(summary: dict[str, Any]) -> list[str]:
    """
    A line for models that are wrong so often that most of the labels they contradict are likely right; else none.

    Args:
        summary (`dict`): From [`~rm_toolkit.study.doubt_report.Doubts.save`].
    """
    if summary["accuracy"] >= LOW_ACCURACY or not summary["num_doubted"]:
        return []
    contradicted = round((1 - summary["accuracy"]) * summary["num_pairs"])
    return [
        f"note: out of fold the models contradict {contradicted:,} of {summary['num_pairs']:,} labels, more than are "
        f"usually wrong: most of the {summary['num_doubted']:,} listed are likely the models' errors. Review from the top, "
        "or pass a lower --threshold."
    ]


def find_script(stage: str) -> Path:
    """
    Returns the script of a stage, from the current folder or from the installed checkout.

    Raises:
        `InputError`: if it is in neither.
    """
    places = [Path("recipes"), Path(__file__).resolve().parents[2] / "recipes"]
    found = next((path for place in places if (path := place / f"{stage}.py").is_file()), None)
    if found is None:
        raise InputError(f"recipes/{stage}.py is not there. Run this command in the root of the checkout.")
    return found


def load_training_data(config: str, flags: list[str]) -> tuple[dict[str, Any], int]:
    """
    Loads the training data of a recipe as its run would, with the tiny base if it asks for one; returns the data and
    the seed.

    Args:
        config (`str`): The recipe.
        flags (`list[str]`): Settings that override it.

    Raises:
        `InputError`: for what the run would refuse, and for streams, which have no folds.
    """
    from ..models.adapter_files import tokenizer_source
    from ..models.tokenizer import load_tokenizer
    from ..training import stages
    from ..training.recipe import parse_recipe
    from ..training.refused import readable_data
    from ..training.stage_streams import are_streams
    from ..training.tiny_base import ensure_tiny_base

    recipe, training, model = parse_recipe(config, flags)
    recipe.eval_datasets = {}
    train, _, _ = stages.load_stage_data(recipe, training)
    if are_streams(train):
        raise InputError("the recipe streams its training data, and a stream has no folds; leave out `streaming`.")
    ensure_tiny_base(recipe, model, train, training.seed)
    if not model.model_name_or_path:
        raise InputError("`model_name_or_path` is not set; give a folder or a Hub id.")
    tokenizer, revision = recipe.tokenizer_name_or_path, None
    if not tokenizer:
        tokenizer, revision = tokenizer_source(model.model_name_or_path, model.model_revision)
    trust = training.trust_remote_code or getattr(model, "trust_remote_code", False)
    reader = load_tokenizer(tokenizer, revision=revision, trust_remote_code=trust)
    return readable_data(recipe, (train, {}, {}), reader, training.data_format)[0], training.seed
