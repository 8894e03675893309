"""
The journal of a collection: one answer per line, on the disk before it counts.

The first line has the settings of the answers. Lines are only appended, so a run killed at any moment loses at most
the line that it was writing, and the next run asks the missing questions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..output.ending import storage_error
from ..output.lock import WriterLock
from ..output.redaction import redact


VERSION = 1
HEAD = b'{"rm_toolkit_journal": '


@dataclass(frozen=True)
class Answer:
    """
    One answer as returned by the endpoint, before any filter.

    Args:
        key (`str`): Key of the question, see [`question_key`].
        domain (`str`): Domain of the system prompt.
        query (`str`): The query.
        text (`str`): The answer; empty if there was none.
        finish_reason (`str`, *optional*): `stop`, `length`, `content_filter`, … as reported by the endpoint.
        refused (`bool`): Whether the endpoint marked the answer as a refusal.
        model (`str`, *optional*): The model named by the endpoint.
        prompt_tokens, completion_tokens (`int`): As counted by the endpoint; 0 if it does not.
    """

    key: str
    domain: str
    query: str
    text: str
    finish_reason: str | None = None
    refused: bool = False
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def question_key(system_prompt: str, query: str) -> str:
    """Returns the key of a question: if a domain's prompt changes, only that domain is asked again."""
    return hashlib.sha256(json.dumps([system_prompt, query]).encode()).hexdigest()[:32]


class Journal:
    """
    An open journal; only one process at a time can open it.

    Args:
        path (`Path`): The file; created if it does not exist.
        settings (`dict`): Settings that affect the answers: model and sampling.
        replace (`bool`): Whether a journal with other settings may be renamed to `NAME.old` and a new one begun.

    Raises:
        `InputError`: if the file is not a journal, has other settings, is damaged or in use.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, replace: bool = False):
        self.path = path
        self.settings = settings
        self.answers: dict[str, Answer] = {}
        self.torn = False
        self._broken = False
        self._lock = WriterLock(path, alone=True)
        try:
            self._open(replace)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, replace: bool) -> None:
        end = self._read(replace) if self.path.exists() else 0
        # Unbuffered: written data is with the system immediately and survives the process.
        self._file = open(self.path, "r+b" if end else "wb", buffering=0)  # noqa: SIM115
        if end:
            self._file.seek(end)
            self._file.truncate()
        else:
            self.answers.clear()
            self._write({"rm_toolkit_journal": VERSION, "settings": self.settings})
            self.sync()
            _sync_folder(self.path.parent)

    def _read(self, replace: bool) -> int:
        """Reads the answers; returns where the last complete line ends, or 0 to begin a new journal."""
        lines = self.path.read_bytes().split(b"\n")
        end = 0
        if len(lines) == 1 and not HEAD.startswith(lines[0][: len(HEAD)]):
            raise InputError(f"{self.path} is not a journal of rm_toolkit. Move the file away.")
        for number, line in enumerate(lines[:-1], 1):
            try:
                value = json.loads(line)
                if number == 1:
                    if value["rm_toolkit_journal"] != VERSION:
                        raise InputError(
                            f"{self.path} was written by another version of rm_toolkit. Move the file away."
                        )
                    if not self._same_settings(value["settings"], replace):
                        return 0
                else:
                    answer = Answer(**value)
                    self.answers.setdefault(answer.key, answer)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if isinstance(error, InputError):
                    raise
                if number > 1 and number == len(lines) - 1 and not lines[-1]:
                    break  # a power failure may leave a last line whose end was written but not its middle
                remedy = "Remove that line: its question is then asked again." if number > 1 else "Move the file away."
                raise InputError(f"{self.path}, line {number}: this is not a line of a journal. {remedy}") from error
            end += len(line) + 1
        self.torn = end > 0 and end < self.path.stat().st_size
        return end

    def _same_settings(self, before: dict[str, Any], replace: bool) -> bool:
        before = redact(dict(before))  # written by a version without redaction
        if before == self.settings:
            return True
        if replace:
            os.replace(self.path, self.path.with_name(f"{self.path.name}.old"))
            return False
        changed = sorted(
            name for name in before.keys() | self.settings.keys() if before.get(name) != self.settings.get(name)
        )
        was = ", ".join(f"`{name}` {before.get(name)!r} (now {self.settings.get(name)!r})" for name in changed)
        raise InputError(
            f"{self.path} has answers given with {was}. Continue with the same settings, use another --output, or pass "
            f"--overwrite to rename that journal to {self.path.name}.old."
        )

    def add(self, answer: Answer) -> None:
        """
        Writes an answer, which then survives a kill of the process; [`sync`] makes it survive a crash of the machine.
        """
        self._write(dataclasses.asdict(answer))
        self.answers[answer.key] = answer

    def sync(self) -> None:
        """Returns when everything written is on disk. May be called from another thread."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, value: dict[str, Any]) -> None:
        if self._broken:  # nothing may follow a partial line
            raise InputError(f"{self.path} can no longer be written.")
        line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
        self._broken = True  # until it is complete
        written = 0
        try:
            while written < len(line):  # a nearly full disk accepts a part, and fails for the rest
                written += self._file.write(line[written:])
        except OSError as error:
            raise self._unwritable(error) from error
        self._broken = False

    def _unwritable(self, error: OSError) -> InputError:
        said = storage_error(OSError(error.errno, error.strerror, str(self.path)))
        said = said or f"{self.path} cannot be written: {error.strerror}."
        return InputError(f"{said} The same command continues from there.")

    def close(self) -> None:
        """Closes the file and releases it."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _sync_folder(folder: Path) -> None:
    """Makes a new file's name durable too; where folders cannot be opened (Windows), the system does this."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
