"""A file that is written piece by piece and survives a kill: it gets its name only when it is complete."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from .folders import replace_text
from .json_files import load_json
from .lock import WriterLock


class PartialOutput:
    """
    An output that grows as `NAME.partial`, with a journal `NAME.run.json` of what was written, and by which run.

    A piece counts once it is in the journal. Anything after that, half a line or a whole piece, is truncated and
    written again when the same run is started again. The journal stays beside the finished file and says which run
    wrote it. Until another run writes its first piece, the journal of an earlier output stays.

    Args:
        path (`Path`): The output.
        run (`Mapping[str, Any]`): What must be equal for a run to continue; JSON values.
        overwrite (`bool`): Whether the output of another run is replaced.

    Inside the context it holds the output, and has `complete` and, for an unfinished output, `state`.

    Raises:
        `InputError`: when it is entered, if another process writes it, there is an output of another run, or its folder
            cannot be written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], *, overwrite: bool = False):
        self.path, self.run, self.overwrite = path, dict(run), overwrite
        self.partial = path.with_name(path.name + ".partial")
        self.journal = path.with_name(path.name + ".run.json")
        self.file: IO[bytes] | None = None
        self.state: dict[str, Any] = {}
        self.complete = False
        self._lock: WriterLock | None = None

    def __enter__(self) -> PartialOutput:
        path = self.path
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder '{path.parent}'. Create it, or name another file.")
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file.")
        self._lock = WriterLock(path, alone=True)
        try:
            self._read()
            if not self.complete:
                self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
            if not self.complete and not self.state.get("bytes"):  # no piece of it counts
                with contextlib.suppress(OSError):
                    self.partial.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()

    def _read(self) -> None:
        """Finds out what an earlier run has left; under the lock, since it could still be writing."""
        found = self.read_journal()
        same = found is not None and found.get("run") == self.run
        if not same and not self.overwrite:
            self._refuse(found)
        self.state = found if same and found is not None else {}
        if self.state.get("finished") and not self.partial.exists() and self.path.exists():
            # A finished run is kept, or redone; an unfinished one is continued even with `overwrite`.
            self.complete = not self.overwrite
            self.state = {} if self.overwrite else self.state
        elif not self.partial.exists() or self.partial.stat().st_size < self.state.get("bytes", 0):
            self.state = {}

    def _refuse(self, found: dict[str, Any] | None) -> None:
        # An empty file has no results: a run that was killed at its first step leaves one.
        places = (self.path, self.partial)
        existing = next((place for place in places if place.exists() and place.stat().st_size), None)
        if existing is None:
            return
        problem = "it is not known which run wrote it"
        if found is not None:
            before = found.get("run", {})
            changed = [name for name in self.run if self.run[name] != before.get(name)]
            problem = "it is from another run: " + "; ".join(
                f"`{name}` was {before.get(name)!r}, now {self.run[name]!r}" for name in changed
            )
        raise InputError(f"{existing} exists, and {problem}. Use another name, or pass --overwrite to replace it.")

    def read_journal(self) -> dict[str, Any] | None:
        """Returns the content of the journal; `None` if there is none that can be read."""
        with contextlib.suppress(OSError, ValueError):
            found = load_json(self.journal)
            return found if isinstance(found, dict) else None
        return None

    def _open(self) -> None:
        try:
            self.file = self.partial.open("r+b" if self.partial.exists() else "w+b")
            self.file.truncate(self.state.get("bytes", 0))
            self.file.seek(0, os.SEEK_END)
        except OSError as error:
            raise InputError(f"{self.partial} cannot be written ({error.strerror}). Name another file.") from error

    def append(self, data: bytes, state: Mapping[str, Any]) -> None:
        """Writes one piece, then its journal entry."""
        if not self.state:  # what the journal says of an earlier run must not be taken for this one
            self._write_journal({"bytes": 0})
        self.file.write(data)
        self.file.flush()
        os.fsync(self.file.fileno())
        self._write_journal({**state, "bytes": self.file.tell()})

    def finish(self, state: Mapping[str, Any]) -> None:
        """Renames the output to its final name."""
        # If killed between the two, the next run finds the output under its name and knows that it is complete.
        self._write_journal({**self.state, **state, "bytes": self.file.tell(), "finished": True})
        os.replace(self.partial, self.path)
        self.complete = True

    def _write_journal(self, state: Mapping[str, Any]) -> None:
        self.state = {**state, "run": self.run}
        replace_text(self.journal, json.dumps(self.state, indent=1))
