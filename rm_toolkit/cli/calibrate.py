"""`rm-toolkit calibrate --model DIR --datasets NAME=SPEC …`: turns reward differences into probabilities."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import COUNT, DEVICE, SEED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = (
        "example:\n  rm-toolkit calibrate --model outputs/crft-literature \\\n"
        "      --datasets literature='{path: data/samples/dsp.test.json, source: dsp, domain: literature}'\n\n"
        "Give pairs that the model was not trained on, of the kind that it will judge. DIR/calibration.json is read by\n"
        "RewardScorer(DIR, calibrated=True).win_probability(…) and `rm-toolkit score --calibrated`; rewards do not change."
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="DIR",
        help="folder of a reward model or an adapter; the result is written into it",
    )
    add(
        "--datasets",
        nargs="+",
        required=True,
        metavar="NAME=SPEC",
        help="held-out sets: a built folder, a Hub id, or '{path: FILE, source: dsp, …}' with the keys of a recipe",
    )
    add(
        "--method",
        choices=("temperature", "isotonic"),
        default="temperature",
        help="temperature: one number that divides the margins (default); isotonic: an increasing step function, for "
        "1,000 pairs or more",
    )
    add("--split", default="test", help="split to use where a SPEC names none (default test)")
    add(
        "--seed",
        type=SEED,
        default=0,
        help="seed of the parts, and of fractions and `test_size` splits; use the seed of the run",
    )
    add("--device", type=DEVICE, help="where to compute, such as cuda:1 (default: a GPU where there is one)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision of the weights")
    add("--tokens-per-batch", type=COUNT, help="padded tokens computed at once (default: 16384 on a GPU, else 4096)")
    add(
        "--chat-date",
        metavar="DATE",
        help="YYYY-MM-DD, for a chat template that asks for the date, if the model has none stored",
    )
    add("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    add("--cache-dir", help="cache of the datasets library (default: its own)")
    add("--overwrite", action="store_true", help="replace an earlier calibration")


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [Path(args.model)] if Path(args.model).is_dir() else []


def run(args: argparse.Namespace) -> None:
    """Fits, shows the effect on pairs that were not used for fitting, and writes the file."""
    from ..data.specs import parse_named_specs
    from ..evaluation.calibrate import calibrate, check_calibration_file

    specs = parse_named_specs(args.datasets, "--datasets")
    folder = check_calibration_file(args.model, args.overwrite)

    import torch

    from ..models.files import CALIBRATION_NAME
    from ..output.console import console, print_table

    found = calibrate(
        args.model,
        specs,
        method=args.method,
        split=args.split,
        seed=args.seed,
        cache_dir=args.cache_dir,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        tokens_per_batch=args.tokens_per_batch,
        chat_date=args.chat_date,
        trust_remote_code=args.trust_remote_code,
    )
    record = found.calibration.record
    names = {"ece": "ECE", "brier": "Brier", "log_loss": "log loss"}
    print_table(
        ["on pairs not used for fitting", *names.values()],
        [
            [title, *(f"{values[name]:.4f}" for name in names)]
            for title, values in (("uncalibrated", found.before), ("calibrated", found.after))
        ],
    )
    if found.calibration.method == "temperature":
        error = record["temperature_standard_error"]
        console.print(f"temperature {found.calibration.temperature:.4g} (standard error {error:.2g})")
    for note in found.notes:
        console.print(f"note: {note}")
    found.calibration.save(folder)
    console.print(
        f"wrote {folder / CALIBRATION_NAME}, fitted to {record['num_pairs']:,} pairs of {record['num_prompts']:,} prompts"
    )
