"""`rm-toolkit inspect DATASET --output DIR`: what is in a preference dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import COUNT, PLACE, SEED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = (
        "example:\n  rm-toolkit inspect '{path: data/samples/dsp.train.json, source: dsp}' --tokenizer outputs/grft \\\n"
        "      --against test='{path: data/samples/dsp.test.json, source: dsp}' --output outputs/inspection\n\n"
        "The data is read as it is, without cleaning. A DSP file without a domain is counted once for each domain."
    )
    add = parser.add_argument
    add(
        "dataset",
        metavar="DATASET",
        help="a built folder, a Hub id, or '{path: FILE, source: dsp, …}' with the keys of a recipe",
    )
    add(
        "--output",
        type=PLACE,
        required=True,
        metavar="DIR",
        help="folder for report.html, report.md, inspection.json and figures/",
    )
    add("--tokenizer", metavar="DIR_OR_ID", help="tokenizer or model, for lengths in tokens (default: words)")
    add("--max-length", type=COUNT, help="tokens that the model reads (default: from the model, else 512)")
    add("--against", nargs="+", default=[], metavar="NAME=SPEC", help="other sets, to find shared prompts and texts")
    add("--split", default="train", help="split to use where a SPEC names none (default train)")
    add("--seed", type=SEED, default=0, help="seed of splits made here (default 0)")
    add("--no-word-clouds", action="store_true", help="draw no word clouds (they need the package wordcloud)")
    add("--cache-dir", help="cache of the datasets library (default: its own)")
    add("--overwrite", action="store_true", help="replace an earlier report")


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [args.output]


def run(args: argparse.Namespace) -> None:
    """Inspects, writes the report, prints the counts."""
    from ..data.specs import parse_named_specs, parse_spec
    from ..errors import InputError

    if args.max_length is not None and args.max_length < 4:
        raise InputError(f"--max-length is {args.max_length}; a text needs room for at least 4 tokens.")
    if args.max_length is not None and args.tokenizer is None:
        raise InputError("--max-length counts tokens: add --tokenizer DIR_OR_ID.")
    spec = parse_spec(args.dataset, "DATASET")
    against = parse_named_specs(args.against, "--against")

    from ..inspection.figures import require_wordcloud
    from ..inspection.inspector import check_inspection_folder, inspect_dataset
    from ..inspection.report import STEPS
    from ..output.console import console, print_table

    check_inspection_folder(args.output, args.overwrite)
    if not args.no_word_clouds:
        require_wordcloud()
    found = inspect_dataset(
        spec,
        against=against,
        tokenizer=args.tokenizer,
        max_length=args.max_length,
        split=args.split,
        seed=args.seed,
        cache_dir=args.cache_dir,
    )
    found.result["command"] = args.command_line
    found.save(args.output, overwrite=args.overwrite, word_clouds=not args.no_word_clouds)
    counts = found.result["counts"]
    print_table(
        ["", *counts], [[title, *(f"{own[key]:,}" for own in counts.values())] for key, title in STEPS.items()]
    )
    console.print(f"wrote {args.output}: report.md, report.html, inspection.json, figures/")
