"""One repository on the Hub, for both kinds of pushes; a wrapper of `huggingface_hub`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .. import __version__
from ..errors import InputError, class_and_line
from ..models.files import CARD_NAME
from ..models.hub_client import HubUnreachable


# Files that we put into a repository and may replace or remove; everything else belongs to others.
MANIFEST = ".rm_toolkit_push.json"


class Unreachable(InputError):
    """The Hub could not be reached: unlike a refusal, trying again may help."""


class Repository:
    """
    A model or dataset repository to write to.

    Args:
        repo_id (`str`): `NAMESPACE/NAME`, or `NAME` in the namespace of the token's owner.
        repo_type (`str`): `"model"` or `"dataset"`.
        revision (`str`, *optional*): Branch, created if it does not exist. Default: the main branch.
        token (`str`, *optional*): Defaults to the one of `hf auth login` or HF_TOKEN; it is never printed or saved.

    Raises:
        `InputError`: if the name or the token is not valid.
    """

    def __init__(
        self, repo_id: str | None, repo_type: str = "model", *, revision: str | None = None, token: str | None = None
    ):
        if not repo_id:
            raise InputError("no repository is given; pass --repo-id NAMESPACE/NAME (`hub_model_id` in a recipe).")
        self.repo_id = repo_id
        self.repo_type = repo_type
        self.revision = revision
        self.api = HfApi(token=token, library_name="rm_toolkit", library_version=__version__)
        with self.errors():
            owner = self.api.whoami()["name"]
        if "/" not in repo_id:
            self.repo_id = f"{owner}/{repo_id}"

    def open(self, private: bool | None = None) -> None:
        """
        Creates the repository and its branch if they do not exist.

        Args:
            private (`bool`, *optional*): Visibility of a new repository.

        Raises:
            `InputError`: if the Hub refuses, or a private repository is requested but a public one exists.
        """
        where = {"repo_id": self.repo_id, "repo_type": self.repo_type}
        with self.errors():
            try:
                info = self.api.repo_info(**where)
            except RepositoryNotFoundError:
                self.api.create_repo(**where, private=private, exist_ok=True)
                info = None
            if info is not None and private and not info.private:
                raise InputError(
                    f"{self.repo_id} exists already and is public, but --private was given; nothing was sent. Make "
                    "it private in its settings on the Hub, or use another name."
                )
            if self.revision is not None and not self.revision.startswith("refs/"):
                self.api.create_branch(**where, branch=self.revision, exist_ok=True)

    def files(self) -> set[str]:
        """Returns the paths of all files in the repository."""
        with self.errors():
            return set(self.api.list_repo_files(self.repo_id, repo_type=self.repo_type, revision=self.revision))

    def read(self, path: str) -> bytes | None:
        """Returns the content of a small file, or `None` if there is none."""
        with self.errors():
            try:
                file = self.api.hf_hub_download(
                    self.repo_id, path, repo_type=self.repo_type, revision=self.revision, force_download=True
                )
            except (RemoteEntryNotFoundError, RevisionNotFoundError):
                return None
            return Path(file).read_bytes()

    def upload(self, folder: Path, message: str, delete: set[str]) -> Any:
        """
        Uploads a folder. Files that an interrupted upload has sent, or that are unchanged, are not sent again.

        Args:
            folder (`Path`): The files.
            message (`str`): Commit message.
            delete (`set[str]`): Paths of an earlier push to remove.

        Returns:
            `huggingface_hub.CommitInfo`: The (last) commit.
        """
        with self.errors():
            return self.api.upload_folder(
                repo_id=self.repo_id,
                repo_type=self.repo_type,
                revision=self.revision,
                folder_path=folder,
                commit_message=message,
                delete_patterns=sorted(delete) or None,
            )

    def download(self, commit: str, cache_dir: str) -> str:
        """Downloads everything at one commit into an empty cache; returns the folder."""
        with self.errors():
            return self.api.snapshot_download(
                self.repo_id, repo_type=self.repo_type, revision=commit, cache_dir=cache_dir
            )

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns errors of the Hub or the network into an `InputError` that says what to do."""
        try:
            yield
        except InputError:
            raise
        except HubUnreachable as error:
            raise Unreachable(
                f"{self.repo_id} was not reached: {error}. Check the connection, and run the command again."
            ) from error
        except OfflineModeIsEnabled as error:
            raise Unreachable(
                f"{self.repo_id} was not reached, because HF_HUB_OFFLINE is set. Unset it and run the command again."
            ) from error
        except LocalTokenNotFoundError as error:
            raise InputError(f"no token for {self.repo_id}: log in with `hf auth login`, or set HF_TOKEN.") from error
        except HFValidationError as error:
            raise InputError(f"'{self.repo_id}' is not a repository name: give NAMESPACE/NAME.") from error
        # RuntimeError: raised by the transfer libraries around the cause.
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            if isinstance(error, ValueError) and "README.md" in str(error):
                raise InputError(
                    f"the Hub does not accept the card for {self.repo_id}; nothing was sent: {' '.join(str(error).split())} "
                    "Correct the README.md of the folder, or --license."
                ) from error
            refusal = _find(error, HfHubHTTPError)
            if refusal is not None:
                raise _refused(self.repo_id, refusal) from error
            if isinstance(error, PermissionError) and type(error).__module__ == "hf_xet":
                raise InputError(
                    f"the Hub's file store refused {self.repo_id}: the token is no longer valid, or may not write there."
                ) from error
            if isinstance(error, (HTTPError, ConnectionError, RuntimeError)):
                raise Unreachable(
                    f"the connection to the Hub broke during a request for {self.repo_id} ({_reason(error)}). Run the same "
                    "command again: files that have arrived are not sent twice."
                ) from error
            raise


def earlier_push(repository: Repository) -> dict[str, Any]:
    """Returns our manifest of an earlier push: `files`, and `card`, the card's SHA-256."""
    content = repository.read(MANIFEST)
    try:
        values = json.loads(content) if content else {}
    except ValueError:
        values = {}
    return {"files": list(values.get("files", [])), "card": values.get("card")}


def write_manifest(folder: Path, card_is_ours: bool) -> None:
    """Lists the files of a folder before the upload, so that a later push knows its own files."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    card = folder / CARD_NAME
    digest = hashlib.sha256(card.read_bytes()).hexdigest() if card_is_ours and card.exists() else None
    text = json.dumps({"files": [*files, MANIFEST], "card": digest}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def foreign_card(repository: Repository, earlier: dict[str, Any], remote: set[str]) -> str | None:
    """Returns the card in the repository if a person wrote or changed it, else `None`."""
    content = repository.read(CARD_NAME) if CARD_NAME in remote else None
    if not content or hashlib.sha256(content).hexdigest() == earlier["card"]:
        return None
    return content.decode("utf-8", "replace")


def _refused(repo_id: str, error: HfHubHTTPError) -> InputError:
    """The address of a request may be signed, so the message has only the status and the Hub's own text."""
    status = error.response.status_code
    words = " ".join((error.server_message or error.response.reason_phrase or "").split())[:300]
    told = f"the Hub refused {repo_id} ({status}{': ' + words if words else ''})."
    if status == 401:
        return InputError(f"{told} The token is missing or not valid: log in with `hf auth login`, or set HF_TOKEN.")
    if status == 403:
        return InputError(
            f"{told} The token is valid but may not write there: create one with write access to that namespace "
            "(https://huggingface.co/settings/tokens), or name one of your own repositories."
        )
    if status == 404:
        return InputError(f"{told} Check the name, the revision, and that the token has access.")
    if status in (408, 429) or status >= 500:
        return Unreachable(f"{told} Run the same command again later: files that have arrived are not sent twice.")
    return InputError(f"{told} Check the repository and run the command again.")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__


def _find(error: BaseException, kind: type[HfHubHTTPError]) -> HfHubHTTPError | None:
    return next((item for item in _chain(error) if isinstance(item, kind)), None)


def _reason(error: BaseException) -> str:
    # The innermost errors are the transport's; the HTTP library's says more. Parameters of an address may sign it.
    root = next((item for item in _chain(error) if isinstance(item, HTTPError)), error)
    return re.sub(r"\?\S+", "", class_and_line(root, 200))
