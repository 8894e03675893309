"""One file of a model, in a local folder or at a revision of a Hub repository."""

from __future__ import annotations

import os

from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from .files import ADAPTER_CONFIG, CONFIG_NAME


def split_revision(name: str | os.PathLike, revision: str | None = None) -> tuple[str, str | None]:
    """
    Splits `NAMESPACE/NAME@REVISION`, as written by the Hub's own file system; anything else is only a name.

    Args:
        name (`str` or `os.PathLike`): Folder or Hub id.
        revision (`str`, *optional*): The revision, if given separately.

    Returns:
        `tuple`: The folder or Hub id, and its branch, tag or commit.
    """
    name = str(name)
    base, at, given = name.partition("@")
    if revision is not None or not (base and at and given) or os.path.exists(name) or base.count("/") > 1:
        return name, revision
    return base, given


def recorded_revision(name: str, revision: str | None) -> str | None:
    """Returns the revision that names what was loaded; `None` for a folder, and for the main branch."""
    return None if revision == "main" or os.path.isdir(name) else revision


def find_file(name: str, filename: str, revision: str | None = None, *, subfolder: str = "") -> str | None:
    """
    Finds a file of a model; a file on the Hub is downloaded into the cache.

    Args:
        name (`str`): Folder or Hub id; empty for a model made in code.
        filename (`str`): Its name.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        subfolder (`str`): Folder that it is in.

    Returns:
        `str`, *optional*: Its path, or `None` if there is no such file or model.
    """
    if not name:
        return None
    try:
        return cached_file(
            name,
            filename,
            subfolder=subfolder,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # a name that the Hub cannot have, such as a path with several parts
        return None


def find_commit(name: str, revision: str | None = None) -> str | None:
    """Returns the commit that a model or adapter on the Hub is read at; `None` for a folder."""
    paths = [] if os.path.isdir(name) else [find_file(name, file, revision) for file in (CONFIG_NAME, ADAPTER_CONFIG)]
    return next((extract_commit_hash(path, None) for path in paths if path is not None), None)
