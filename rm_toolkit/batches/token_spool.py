"""Collects token ids in memory or on disk, so that a large dataset needs no memory for them while it is tokenized."""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from pathlib import Path
from typing import IO

import numpy as np


TOKENS_HELD = 1 << 24  # 64 MB: more goes to disk, if there is a folder for it


class TokenSpool:
    """
    Collects token ids.

    Args:
        folder (`Path`, *optional*): Folder for the ids of a large dataset, in an unnamed temporary file. Without it,
            or if it is not writable, they stay in memory.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        self._held = array("i")
        self._file: IO[bytes] | None = None
        self._written = 0

    def __len__(self) -> int:
        return self._written + len(self._held)

    def extend(self, ids: list[int]) -> None:
        """Adds token ids."""
        self._held.fromlist(ids)
        if self._folder is not None and len(self._held) >= TOKENS_HELD:
            self._write()

    def array(self) -> np.ndarray:
        """Returns all ids, `np.ndarray` of shape `(num_tokens,)` and type int32. To be called once, at the end."""
        if self._file is not None and self._folder is not None:
            self._write()
        held = np.frombuffer(self._held, dtype=np.int32) if self._held else np.zeros(0, dtype=np.int32)
        if self._file is None:
            return held
        with contextlib.closing(self._file):  # the mapping outlives the open file
            if not self._written:
                return held
            written = np.asarray(np.memmap(self._file, dtype=np.int32, mode="c", shape=(self._written,)))
        return np.concatenate([written, held]) if self._held else written

    def _write(self) -> None:
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._held.tofile(self._file)
            self._file.flush()
        except OSError:  # such as a full disk: unwritten and later ids stay in memory
            self._folder = None
            return
        self._written += len(self._held)
        self._held = array("i")
