"""A dataset that `build-data` wrote -> the Hub, as Parquet files with a card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset, load_from_disk
from huggingface_hub import DatasetCard
from tqdm.auto import tqdm

from ..console import console
from ..data.build import INFO_FILE
from ..errors import InputError
from .dataset_card import dataset_card
from .repository import CARD_NAME, Repository, earlier_push, foreign_card, write_manifest
from .staging import check_no_token


SHARD_BYTES = 500_000_000  # as `datasets` cuts them
ROWS_COMPARED_AT_ONCE = 1000


@dataclass
class DatasetPush:
    """
    What to publish of a dataset, and how.

    Args:
        folder (`str`): A folder that `rm-toolkit build-data` wrote.
        repo_id (`str`, *optional*): `NAMESPACE/NAME`, or `NAME`.
        private (`bool`, *optional*): Visibility of a new repository.
        revision (`str`, *optional*): Branch; made if it is not there.
        token (`str`, *optional*): Defaults to the one of `hf auth login`; it is never printed or saved.
        message (`str`, *optional*): Commit message.
        license (`str`, *optional*): Licence of the data, as the Hub names it; default: what `build-data --license` said,
            then that of the published data of the source.
        verify (`bool`): Load what was published into an empty cache and compare every row.
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


def push_dataset(folder: str, repo_id: str | None, **options: Any) -> str:
    """
    Uploads a built dataset as Parquet, all columns and their types kept, with a card that makes `load_dataset` work.

    Args:
        folder (`str`): A folder that `rm-toolkit build-data` wrote.
        repo_id (`str`): `NAMESPACE/NAME` or `NAME`.
        **options: See [`DatasetPush`].

    Returns:
        `str`: Address of the commit.

    Raises:
        `InputError`: if the folder is no built dataset, or the Hub refuses.
    """
    push = DatasetPush(folder, repo_id, **options)
    data, info = read_built(folder)
    repository = Repository(repo_id, "dataset", revision=push.revision, token=push.token)
    with prepared(push, data, info, repository.repo_id) as staged:
        check_no_token(staged, push.token)
        repository.open(push.private)
        remote, earlier = repository.files(), earlier_push(repository)
        kept = None if push.overwrite_card else foreign_card(repository, earlier, remote)
        if kept is not None:
            merge_card(staged / CARD_NAME, kept)
            console.print(
                f"{repository.repo_id}: the text of the card there was written or changed by hand and stays as it is; "
                "--overwrite-card replaces it.",
                highlight=False,
            )
        write_manifest(staged, card_is_ours=kept is None)
        published = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
        stale = (set(earlier["files"]) & remote) - published
        commit = repository.upload(staged, push.message or "Upload dataset (rm_toolkit)", stale)
        if push.verify:
            verify_rows(repository, commit.oid, data, push.token)
    return str(commit.commit_url)


def preview_dataset(folder: str, repo_id: str, output: str, **options: Any) -> None:
    """
    Writes what would be published, card included, into a folder; nothing is sent.

    Args:
        folder, repo_id, **options: As in [`push_dataset`].
        output (`str`): A folder that is not there yet.
    """
    push = DatasetPush(folder, repo_id, **options)
    data, info = read_built(folder)
    if Path(output).exists():
        raise InputError(f"--preview {output}: it is there already. Name a folder that is not.")
    with prepared(push, data, info, repo_id) as staged:
        check_no_token(staged, push.token)
        shutil.copytree(staged, output)


def read_built(folder: str) -> tuple[DatasetDict, dict[str, Any]]:
    """
    Loads a folder that `build-data` wrote, and what it wrote about it.

    Raises:
        `InputError`: if it is none, or cannot be read.
    """
    file = Path(folder, INFO_FILE)
    if not file.is_file():
        raise InputError(
            f"{folder} is no folder that `rm-toolkit build-data` wrote (it has no `{INFO_FILE}`). Build it first."
        )
    try:
        return load_from_disk(folder), json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} cannot be read ({error}). Build the folder again.") from error


@contextmanager
def prepared(push: DatasetPush, data: DatasetDict, info: dict[str, Any], repo_id: str) -> Iterator[Path]:
    """Lays out what is published, Parquet files and card, in a temporary folder and yields it."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary, "dataset")
        (staged / "data").mkdir(parents=True)
        files = {split: write_parquet(rows, staged, split) for split, rows in data.items()}
        (staged / INFO_FILE).write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        dataset_card(repo_id, data, files, info, push.license).save(staged / CARD_NAME)
        yield staged


def write_parquet(rows: Any, staged: Path, split: str) -> list[str]:
    """Writes one split in parts of at most about 500 MB; the same rows give the same files. Returns their paths."""
    parts = int(rows.data.nbytes / SHARD_BYTES) + 1
    names = [f"data/{split}-{number:05d}-of-{parts:05d}.parquet" for number in range(parts)]
    for number, name in enumerate(tqdm(names, desc=f"Writing {split}", unit="file", delay=2)):
        rows.shard(parts, number, contiguous=True).to_parquet(staged / name)
    return names


def merge_card(path: Path, kept: str) -> None:
    """Keeps the text and the metadata of a card on the Hub, but for what `load_dataset` reads: that is the new files'."""
    ours, theirs = DatasetCard.load(path), DatasetCard(kept)
    for key in ("configs", "dataset_info"):
        theirs.data[key] = ours.data.get(key)
    theirs.save(path)


def verify_rows(repository: Repository, commit: str, data: DatasetDict, token: str | None) -> None:
    """
    Loads what was published into an empty cache and compares columns and every row.

    Raises:
        `InputError`: naming the split that differs.
    """
    with tempfile.TemporaryDirectory() as cache:
        with repository.errors():
            found = load_dataset(repository.repo_id, revision=commit, cache_dir=cache, token=token)
        for split, rows in data.items():
            same = split in found and found[split].features == rows.features and len(found[split]) == len(rows)
            pieces = zip(*(part.iter(ROWS_COMPARED_AT_ONCE) for part in (found[split], rows))) if same else ()
            if not same or any(mine != theirs for theirs, mine in pieces):
                raise InputError(
                    f"{repository.repo_id}: split '{split}' loads differently from the Hub than from {split} of the "
                    "folder. Do not announce it; run the command again."
                )
    total = sum(len(rows) for rows in data.values())
    console.print(f"{repository.repo_id}: {total:,} rows are the same in a fresh download.", highlight=False)
