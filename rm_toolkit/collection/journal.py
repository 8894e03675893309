"""
The journal of a collection: every answer on a line of its own, on the disk before it counts.

The first line holds the settings under which the answers were given. Lines are only ever added, so that a run killed
at any moment loses at most the line that it was writing, and the next run asks what is not there.
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
    One answer as the endpoint gave it, whatever the filters will make of it.

    Args:
        key (`str`): Of the question, see [`question_key`].
        domain (`str`): Whose system prompt was given.
        query (`str`): What was asked.
        text (`str`): The answer; empty where there was none.
        finish_reason (`str`, *optional*): `stop`, `length`, `content_filter`, … as the endpoint says.
        refused (`bool`): Whether the endpoint marked the answer as a refusal.
        model (`str`, *optional*): The model that the endpoint says has answered.
        prompt_tokens, completion_tokens (`int`): As the endpoint counts them; 0 where it does not.
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
    """Returns the name of a question: whoever changes a domain's prompt asks anew, in that domain alone."""
    return hashlib.sha256(json.dumps([system_prompt, query]).encode()).hexdigest()[:32]


class Journal:
    """
    An open journal; one process at a time has it.

    Args:
        path (`Path`): The file; begun if it is not there.
        settings (`dict`): What decides the answers: model and sampling.
        replace (`bool`): Whether a journal of other settings may be put aside (as `NAME.old`) and a new one begun.

    Raises:
        `InputError`: if the file is no journal, has other settings, is damaged or in use.
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
        # Unbuffered: what is written is with the system at once, and outlives the process.
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
        """Takes the answers in; returns where the last whole line ends, or 0 for a journal to be begun anew."""
        lines = self.path.read_bytes().split(b"\n")
        end = 0
        if len(lines) == 1 and not HEAD.startswith(lines[0][: len(HEAD)]):
            raise InputError(f"{self.path} is no journal of rm_toolkit. Move the file away.")
        for number, line in enumerate(lines[:-1], 1):
            try:
                value = json.loads(line)
                if number == 1:
                    if value["rm_toolkit_journal"] != VERSION:
                        raise InputError(f"{self.path} was written by another version of rm_toolkit; move it away.")
                    if not self._same_settings(value["settings"], replace):
                        return 0
                else:
                    answer = Answer(**value)
                    self.answers.setdefault(answer.key, answer)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if isinstance(error, InputError):
                    raise
                if number > 1 and number == len(lines) - 1 and not lines[-1]:
                    break  # a power cut may leave a last line whose end was written and whose middle was not
                remedy = "Remove that line: its question is then asked again." if number > 1 else "Move the file away."
                raise InputError(f"{self.path}, line {number}: this is no line of a journal. {remedy}") from error
            end += len(line) + 1
        self.torn = end > 0 and end < self.path.stat().st_size
        return end

    def _same_settings(self, before: dict[str, Any], replace: bool) -> bool:
        before = redact(dict(before))  # written by a version that hid nothing
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
            f"{self.path} holds answers given with {was}. Go on with the same settings, take another --output, or pass "
            f"--overwrite to put those answers aside as {self.path.name}.old."
        )

    def add(self, answer: Answer) -> None:
        """Writes an answer, which a kill of the process does not undo any more; [`sync`] makes it outlive the machine."""
        self._write(dataclasses.asdict(answer))
        self.answers[answer.key] = answer

    def sync(self) -> None:
        """Returns when everything written is on the disk. May be called from another thread."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, value: dict[str, Any]) -> None:
        if self._broken:  # nothing may stand behind half a line
            raise InputError(f"{self.path} cannot be written any more.")
        line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
        self._broken = True  # until it is whole
        written = 0
        try:
            while written < len(line):  # a disk that is nearly full takes a part, and says of the rest that it is full
                written += self._file.write(line[written:])
        except OSError as error:
            raise self._unwritable(error) from error
        self._broken = False

    def _unwritable(self, error: OSError) -> InputError:
        said = storage_error(OSError(error.errno, error.strerror, str(self.path)))
        said = said or f"{self.path} cannot be written: {error.strerror}."
        return InputError(f"{said} The same command goes on from there.")

    def close(self) -> None:
        """Closes the file and lets others have it."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _sync_folder(folder: Path) -> None:
    """Makes a new file's name last, too; where folders cannot be opened (Windows) the system sees to it."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
