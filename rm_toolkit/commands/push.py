"""`rm-toolkit push`: reload check, then upload."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of a trained reward model")
    parser.add_argument("--repo-id", required=True, metavar="NAME", help="NAMESPACE/NAME on the Hub")
    parser.add_argument("--private", action="store_true", default=None, help="create the repository as private")
    parser.add_argument("--message", help="commit message")


def run(args: argparse.Namespace) -> None:
    """Runs the command. The token is the one of `hf auth login` or HF_TOKEN; it is no argument, so no shell keeps it."""
    from ..hub import push_model

    print(f"Pushed to {push_model(args.model, args.repo_id, private=args.private, message=args.message)}")
