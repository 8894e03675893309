"""`rm-toolkit merge`: interpolates a general and a customized reward model, with a given or the best weight."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from .options import BELOW_ONE, COUNT, DEVICE, PLACE, SEED, SHARE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = (
        "example:\n  rm-toolkit merge --general outputs/grft --customized outputs/crft-literature --weight 0.5 \\\n"
        "      --output outputs/merged\n\n"
        "With --frontier, a series of weights is evaluated in memory, and the best one within --allowed-loss is written;\n"
        "DIR/frontier/ has the table and the figure. Choose the weight on other data than you test the result on."
    )
    add = parser.add_argument
    add("--general", required=True, metavar="DIR", help="folder of the general reward model")
    add(
        "--customized",
        nargs="+",
        required=True,
        metavar="DIR",
        help="folder of the customized reward model; several are allowed",
    )
    add("--output", type=PLACE, required=True, metavar="DIR", help="folder for the merged model")
    add(
        "--weight",
        type=SHARE,
        nargs="+",
        help="weight of each customized model, 0 to 1; the general model gets the rest",
    )
    add("--frontier", action="store_true", help="evaluate --weights and write the best one")
    series = parser.add_argument_group("with --frontier")
    spec = "a built folder, a Hub id, or '{path: FILE, source: dsp, …}' with the keys of a recipe"
    for kind in ("general", "customized"):
        series.add_argument(f"--{kind}-datasets", nargs="+", metavar="NAME=SPEC", help=f"{kind} test sets: {spec}")
    series.add_argument("--weights", type=SHARE, nargs="+", help="default 0 0.1 … 1; 0 and 1 are always included")
    series.add_argument(
        "--allowed-loss", type=BELOW_ONE, help="general accuracy that may be lost (default 0.01: one point)"
    )
    series.add_argument("--split", default="test", help="split to use where a SPEC names none (default test)")
    series.add_argument("--seed", type=SEED, default=0, help="seed of fractions and splits (default 0)")
    series.add_argument(
        "--device", type=DEVICE, help="where to compute, such as cuda:1 (default: a GPU where there is one)"
    )
    series.add_argument("--tokens-per-batch", type=COUNT, default=16384, help="padded tokens computed at once")
    series.add_argument("--cache-dir", help="cache of the datasets library (default: its own)")
    add("--overwrite", action="store_true", help="replace a folder that an earlier merge wrote")


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [args.output]


def run(args: argparse.Namespace) -> None:
    """Merges, or searches for the weight to merge with."""
    for name in ("general_datasets", "customized_datasets", "weights", "allowed_loss"):
        if getattr(args, name) is not None and not args.frontier:
            raise InputError(
                f"--{name.replace('_', '-')} is used with --frontier only. Add --frontier, or leave it out."
            )
    if args.frontier:
        _frontier(args)
        return
    from ..merging.merge import check_weights, merge_models

    if args.weight is None:
        raise InputError("--weight is not given: 0 is the general model, 1 the customized one. Or pass --frontier.")
    check_weights(args.weight, len(args.customized))
    checked = merge_models(args.general, args.customized, args.weight, args.output, overwrite=args.overwrite)
    _say_saved(args.output, checked)


def _frontier(args: argparse.Namespace) -> None:
    if args.weight is not None or len(args.customized) > 1:
        raise InputError("--frontier needs exactly one --customized model, and --weights instead of --weight.")
    if not args.general_datasets or not args.customized_datasets:
        raise InputError("--frontier needs --general-datasets NAME=SPEC … and --customized-datasets NAME=SPEC …")
    allowed_loss = 0.01 if args.allowed_loss is None else args.allowed_loss
    from ..data.specs import parse_named_specs
    from ..merging.frontier import check_weights, compute_frontier
    from ..merging.frontier_report import describe_choice, frontier_rows, save_frontier
    from ..merging.merge import MERGE_NAME, merge_models
    from ..output.console import console, print_table
    from ..output.folders import check_output

    specs = [
        parse_named_specs(getattr(args, f"{kind}_datasets"), f"--{kind}-datasets")
        for kind in ("general", "customized")
    ]
    weights = check_weights([number / 10 for number in range(11)] if args.weights is None else args.weights)
    check_output(args.output, args.overwrite, marker=MERGE_NAME, command="merge")
    found = compute_frontier(
        args.general,
        args.customized[0],
        *specs,
        weights,
        allowed_loss=allowed_loss,
        split=args.split,
        seed=args.seed,
        device=args.device,
        tokens_per_batch=args.tokens_per_batch,
        cache_dir=args.cache_dir,
    )
    columns, rows = frontier_rows(found)
    print_table(columns[:3], [row[:3] for row in rows])  # the single sets are in the report
    console.print(describe_choice(found))

    def add_report(folder: Path) -> None:
        (folder / "frontier").mkdir()
        save_frontier(found, folder / "frontier")

    checked = merge_models(
        args.general,
        args.customized,
        [found.chosen.weight],
        args.output,
        overwrite=args.overwrite,
        finish=add_report,
    )
    _say_saved(args.output, checked)
    console.print(f"Table and figure: {args.output}/frontier/")


def _say_saved(output: Path, checked: int) -> None:
    from ..output.console import console

    console.print(f"Saved to {output}; {checked} texts give the same rewards in a fresh process.")
