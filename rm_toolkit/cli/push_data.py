"""`rm-toolkit push-data`: a built dataset -> Parquet files and a card on the Hub."""

from __future__ import annotations

import argparse

from .push import add_repository_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="folder that `rm-toolkit build-data` wrote")
    add("--license", metavar="ID", help="license of the data, as the Hub names it, such as cc-by-4.0")
    add_repository_arguments(parser)
    add("--verify", action="store_true", help="load it into an empty cache afterwards and compare every row")


def run(args: argparse.Namespace) -> None:
    """
    Runs the command. The token comes from `hf auth login` or HF_TOKEN; it is not an argument, so no shell history
    keeps it.
    """
    from ..hub.datasets import preview_dataset, push_dataset
    from ..output.console import console

    names = ("license", "private", "revision", "message", "overwrite_card", "verify")
    options = {name: getattr(args, name) for name in names}
    if args.preview:
        preview_dataset(args.data, args.repo_id, args.preview, **options)
        console.print(f"Wrote {args.preview}; nothing was sent.")
        return
    console.print(f"Pushed to {push_dataset(args.data, args.repo_id, **options)}")
