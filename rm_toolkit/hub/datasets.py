"""A dataset written by `build-data` -> the Hub, as Parquet files with a card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset, load_from_disk
from huggingface_hub import DatasetCard
from tqdm.auto import tqdm

from ..data.build import INFO_FILE
from ..errors import InputError
from ..output.console import console
from ..output.json_files import load_json
from ..output.progress import no_bar
from ..output.temporary import scratch_folder
from .dataset_card import dataset_card
from .pushing import Push, check_preview, upload, write_preview
from .repository import CARD_NAME, Repository


SHARD_BYTES = 500_000_000  # the default of `datasets`
ROWS_COMPARED_AT_ONCE = 1000


def push_dataset(folder: str, repo_id: str | None, **options: Any) -> str:
    """
    Uploads a built dataset as Parquet, all columns and their types kept, with a card that makes `load_dataset` work.

    Args:
        folder (`str`): A folder written by `rm-toolkit build-data`.
        repo_id (`str`): `NAMESPACE/NAME` or `NAME`.
        **options: See [`~rm_toolkit.hub.pushing.Push`]; `license` defaults to that of `build-data --license`, then to
            that of the source's published data.

    Returns:
        `str`: Address of the commit.

    Raises:
        `InputError`: if the folder is not a built dataset, or the Hub refuses.
    """
    push = Push(folder, repo_id, **options)
    data, info = read_built(folder)
    repository = push.repository("dataset")
    with prepared(push, data, info, repository.repo_id) as staged:
        commit = upload(
            push,
            repository,
            staged,
            "Upload dataset (rm_toolkit)",
            lambda card: merge_card(staged / CARD_NAME, card, repository.repo_id),
        )
        if push.verify:
            verify_rows(repository, commit.oid, data, push.token)
    return str(commit.commit_url)


def preview_dataset(folder: str, repo_id: str, output: str, **options: Any) -> None:
    """
    Writes what would be published, card included, into a folder; nothing is sent.

    Args:
        folder, repo_id, **options: As in [`push_dataset`].
        output (`str`): A folder that does not exist yet.
    """
    push = Push(folder, repo_id, **options)
    data, info = read_built(folder)
    check_preview(output)
    with prepared(push, data, info, repo_id) as staged:
        write_preview(push, staged, output)


def read_built(folder: str) -> tuple[DatasetDict, dict[str, Any]]:
    """
    Loads a folder that `build-data` wrote, and its info file.

    Raises:
        `InputError`: if it is not one, or cannot be read.
    """
    file = Path(folder, INFO_FILE)
    if not file.is_file():
        raise InputError(
            f"{folder} was not written by `rm-toolkit build-data` (it has no `{INFO_FILE}`). Build it first."
        )
    try:
        return load_from_disk(folder), load_json(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} cannot be read ({error}). Build the folder again.") from error


@contextmanager
def prepared(push: Push, data: DatasetDict, info: dict[str, Any], repo_id: str) -> Iterator[Path]:
    """Prepares the published files (Parquet files and card) in a temporary folder and yields it."""
    with scratch_folder() as temporary:
        staged = Path(temporary, "dataset")
        (staged / "data").mkdir(parents=True)
        files = {split: write_parquet(rows, staged, split) for split, rows in data.items()}
        info = {name: value for name, value in info.items() if name != "left_out"}  # it quotes what is not published
        (staged / INFO_FILE).write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        dataset_card(repo_id, data, files, info, push.license).save(staged / CARD_NAME)
        yield staged


def write_parquet(rows: Any, staged: Path, split: str) -> list[str]:
    """Writes one split in parts of at most about 500 MB; the same rows give the same files. Returns their paths."""
    parts = int(rows.data.nbytes / SHARD_BYTES) + 1
    names = [f"data/{split}-{number:05d}-of-{parts:05d}.parquet" for number in range(parts)]
    for number, name in enumerate(tqdm(names, desc=f"Writing {split}", unit="file", delay=2, disable=no_bar())):
        rows.shard(parts, number, contiguous=True).to_parquet(staged / name)
    return names


def merge_card(path: Path, kept: str, repo_id: str) -> None:
    """
    Keeps the text and the metadata of a card on the Hub, except what `load_dataset` reads, which is for the new files.
    """
    console.print(
        f"{repo_id}: the text of the card there was written or changed by hand and is kept; --overwrite-card "
        "replaces it.",
    )
    ours, theirs = DatasetCard.load(path), DatasetCard(kept)
    for key in ("configs", "dataset_info"):
        theirs.data[key] = ours.data.get(key)
    theirs.save(path)


def verify_rows(repository: Repository, commit: str, data: DatasetDict, token: str | None) -> None:
    """
    Loads the published dataset into an empty cache and compares columns and every row.

    Raises:
        `InputError`: naming the split that differs.
    """
    with scratch_folder() as cache:
        with repository.errors():
            found = load_dataset(repository.repo_id, revision=commit, cache_dir=str(cache), token=token)
        for split, rows in data.items():
            same = split in found and found[split].features == rows.features and len(found[split]) == len(rows)
            pieces = zip(*(part.iter(ROWS_COMPARED_AT_ONCE) for part in (found[split], rows))) if same else ()
            if not same or any(mine != theirs for theirs, mine in pieces):
                raise InputError(
                    f"{repository.repo_id}: split '{split}' loads differently from the Hub than from {split} of the "
                    "folder. Do not announce the dataset; run the command again."
                )
    total = sum(len(rows) for rows in data.values())
    console.print(f"{repository.repo_id}: {total:,} rows are the same in a fresh download.")
