"""The common part of pushing a model and pushing a dataset: options, upload, preview."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..output.folders import replaced_folder
from ..output.lock import WriterLock
from .places import check_no_places
from .repository import CARD_NAME, Repository, earlier_push, foreign_card, write_manifest
from .staging import check_no_foreign_weights, check_no_token


@dataclass
class Push:
    """
    What to publish, and how.

    Args:
        folder (`str`): The folder to publish.
        repo_id (`str`, *optional*): `NAMESPACE/NAME`, or `NAME`.
        private (`bool`, *optional*): Visibility of a new repository.
        revision (`str`, *optional*): Branch; created if it does not exist.
        token (`str`, *optional*): Defaults to the one of `hf auth login`; it is never printed or saved.
        message (`str`, *optional*): Commit message.
        license (`str`, *optional*): License of the published data or model, as the Hub names it.
        verify (`bool`): Download the published files into an empty cache and compare.
        overwrite_card (`bool`): Replace a card on the Hub that a person wrote or changed.
    """

    folder: str
    repo_id: str | None
    private: bool | None = None
    revision: str | None = None
    token: str | None = None
    message: str | None = None
    license: str | None = None
    verify: bool = False
    overwrite_card: bool = False

    def repository(self, repo_type: str = "model") -> Repository:
        """Returns the target repository."""
        return Repository(self.repo_id, repo_type, revision=self.revision, token=self.token)


def upload(push: Push, repository: Repository, staged: Path, message: str, keep_card: Callable[[str], None]) -> Any:
    """
    Uploads a prepared folder; removes files of an earlier push that are no longer in it.

    Args:
        push (`Push`): The options.
        repository (`Repository`): The target; created if it does not exist.
        staged (`Path`): The files to publish, card included.
        message (`str`): Commit message if the user gave none.
        keep_card (`Callable`): Called with a card on the Hub that a person wrote, to keep it in `staged`.

    Returns:
        `huggingface_hub.CommitInfo`: The commit.

    Raises:
        `InputError`: if a file contains the token or names a path of this machine, the Hub refuses, or foreign weights
            are there.
    """
    check_no_token(staged, push.token)
    check_no_places(staged, source=push.folder)
    repository.open(push.private)
    remote, earlier = repository.files(), earlier_push(repository)
    kept = None if push.overwrite_card else foreign_card(repository, earlier, remote)
    if kept is not None:
        keep_card(kept)
    write_manifest(staged, card_is_ours=kept is None)
    published = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    if repository.repo_type == "model":
        check_no_foreign_weights(repository.repo_id, remote, published, earlier["files"])
    stale = (set(earlier["files"]) & remote) - published - {CARD_NAME}
    return repository.upload(staged, push.message or message, stale)


def check_preview(output: str) -> None:
    """
    Raises:
        `InputError`: if the folder of the preview exists already.
    """
    if Path(output).exists():
        raise InputError(f"--preview {output}: it exists already. Name a new folder.")


def write_preview(push: Push, staged: Path, output: str) -> None:
    """Copies the files to publish; large files stay links."""
    check_no_token(staged, push.token)
    check_no_places(staged, source=push.folder)
    with WriterLock(output):
        check_preview(output)
        with replaced_folder(Path(output)) as new:
            shutil.copytree(staged, new, symlinks=True, dirs_exist_ok=True)
