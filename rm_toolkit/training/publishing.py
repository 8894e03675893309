"""Publishes the result of a run as `rm-toolkit push` does; a failure never loses the trained model."""

from __future__ import annotations

import shlex
from pathlib import Path

from transformers import TrainingArguments

from ..errors import InputError
from ..output.progress import say


def check_hub_strategy(args: TrainingArguments) -> None:
    """
    Raises:
        `InputError`: if `hub_strategy` asks for publishing checkpoints.
    """
    if args.hub_strategy not in ("every_save", "end"):
        raise InputError(
            f"`hub_strategy` is '{args.hub_strategy.value}'; checkpoints are not published, only the result of "
            "the run. Leave it out."
        )


def repository_of(args: TrainingArguments) -> str:
    """Name of the repository: `hub_model_id`, or that of the output folder."""
    return args.hub_model_id or Path(args.output_dir).absolute().name


def open_repository(args: TrainingArguments, token: str | None = None, private: bool | None = None) -> str:
    """
    Checks before the first step whether the token may write to the repository, and creates the repository.

    Args:
        args (`TrainingArguments`): `hub_model_id`, `hub_revision`, `hub_token`, `hub_private_repo`.
        token, private (*optional*): Used instead of the settings.

    Returns:
        `str`: Full name of the repository, if the Hub could be reached.

    Raises:
        `InputError`: if the Hub refuses. If the Hub cannot be reached, the run trains anyway.
    """
    from ..hub.repository import Repository, Unreachable

    repo_id = repository_of(args)
    private = private if private is not None else args.hub_private_repo
    try:
        repository = Repository(repo_id, revision=args.hub_revision, token=token or args.hub_token)
        repo_id = repository.repo_id
        repository.open(private)
    except Unreachable as error:
        say(f"Cannot publish yet, training anyway: {error}")
    return repo_id


def publish_result(
    folder: str,
    repo_id: str,
    *,
    message: str | None = None,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
) -> str | None:
    """
    Publishes what was saved.

    Args:
        folder (`str`): Output folder of the run.
        repo_id (`str`): Name of the repository.
        message, token, revision, private (*optional*): As for `rm-toolkit push`.

    Returns:
        `str`: Address of the commit.

    Raises:
        `InputError`: if it cannot be published; the message says where the model is and how to try again.
    """
    from ..hub import push_model

    options = {"revision": revision, "token": token, "message": message}
    try:
        return push_model(folder, repo_id, private=private, **options)
    except InputError as error:
        command = ["rm-toolkit", "push", "--model", folder, "--repo-id", repo_id]
        command += ["--private"] if private else []
        command += ["--revision", revision] if revision else []
        raise InputError(
            f"the model is trained and saved in {folder}, but not published: {error}\n"
            f"To try again without training: {shlex.join(command)}"
        ) from error
