"""`rm-toolkit push`: reload check, card, upload."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="folder of a trained reward model")
    add("--adapter", action="store_true", help="publish only its adapter (default: the merged model)")
    add(
        "--base-model",
        metavar="NAME",
        help="Hub id of the adapter's base (also ID@REVISION), if it was trained on a folder",
    )
    add(
        "--evaluation", metavar="DIR", help="folder of `rm-toolkit evaluate`: its report and figures are published too"
    )
    add(
        "--publish-texts",
        action="store_true",
        help="with --evaluation: also publish the page and the pairs, with all texts of the test sets",
    )
    add("--license", metavar="ID", help="license of the model, as the Hub names it, such as apache-2.0")
    add_repository_arguments(parser)
    add("--verify", action="store_true", help="download it into an empty cache afterwards and compare rewards")


def add_repository_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `push` and `push-data` share."""
    add = parser.add_argument
    add("--repo-id", required=True, metavar="NAME", help="NAMESPACE/NAME on the Hub, or NAME in your own namespace")
    add("--private", action="store_true", default=None, help="create the repository as private")
    add(
        "--revision",
        metavar="BRANCH",
        help="branch to write to; created if it does not exist (default: the main branch)",
    )
    add("--message", help="commit message")
    add("--overwrite-card", action="store_true", help="replace a card on the Hub that was written or changed by hand")
    add("--preview", metavar="DIR", help="write what would be published into a new folder; send nothing")


def run(args: argparse.Namespace) -> None:
    """
    Runs the command. The token comes from `hf auth login` or HF_TOKEN; it is not an argument, so no shell history
    keeps it.
    """
    from ..hub.models import preview_model, push_model
    from ..output.console import console

    names = (
        "adapter",
        "base_model",
        "evaluation",
        "publish_texts",
        "license",
        "private",
        "revision",
        "message",
        "overwrite_card",
        "verify",
    )
    options = {name: getattr(args, name) for name in names}
    if args.publish_texts and not args.evaluation:
        raise InputError("--publish-texts sends the texts of an evaluation; add --evaluation DIR, or leave it out.")
    if args.base_model and not args.adapter:
        check_base_is_used(args.model)
    if args.preview:
        preview_model(args.model, args.repo_id, args.preview, **options)
        console.print(f"Wrote {args.preview}; nothing was sent.")
        return
    console.print(f"Pushed to {push_model(args.model, args.repo_id, **options)}")


def check_base_is_used(folder: str) -> None:
    """Raises an `InputError` for a `--base-model` that is not used."""
    from ..models.files import ADAPTER_CONFIG, ADAPTER_FOLDER

    if not Path(folder, ADAPTER_FOLDER, ADAPTER_CONFIG).exists():
        raise InputError(f"--base-model: {folder} has no adapter, so --base-model has no use; leave it out.")
