"""The checkpoints of a run: where they lie, when one counts as whole, and which of them stay."""

from __future__ import annotations

import os
from pathlib import Path

from ..output.written import record_written
from .manifest import clear_leftovers, newest_complete, remove_checkpoint, rotate, write_manifest
from .run_files import begin_run


class Checkpoints:
    """
    The `checkpoint-N` folders of a run. What changes the disk is done by the processes that save, the others pass.

    Args:
        output_dir (`str`): Output folder of the run.
        limit (`int`, *optional*): How many to keep; `None` or 0 keeps all.
        saves (`bool`): Whether this process saves.
        num_processes (`int`): Those of the run.
    """

    def __init__(self, output_dir: str, limit: int | None = None, *, saves: bool = True, num_processes: int = 1):
        self.output_dir, self.limit, self.saves, self.num_processes = output_dir, limit, saves, num_processes
        self.saved_step: int | None = None  # of the checkpoint that was written or resumed from last

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return Path(self.output_dir, f"checkpoint-{step}")

    def newest(self) -> str | None:
        """Returns the newest checkpoint that was completed, or `None`."""
        return newest_complete(self.output_dir)

    def begin_run(self, folder: str | os.PathLike | None) -> None:
        """A run begins, or goes on from a checkpoint: what a killed one has left half done is removed."""
        self.saved_step = int(Path(folder).name.rpartition("-")[2]) if folder else None
        if self.saves:
            begin_run(self.output_dir)
            clear_leftovers(self.output_dir, self.saved_step)

    def begin(self, step: int) -> Path:
        """Makes room for the checkpoint of a step, and returns where it goes."""
        folder = self.folder(step)
        if self.saves:
            record_written(self.output_dir, [f"{folder.name}/"])
            if folder.exists():
                remove_checkpoint(folder)
        return folder

    def seal(self, step: int) -> None:
        """The checkpoint of a step is whole: all processes have written what is theirs."""
        if self.saves:
            write_manifest(self.folder(step), self.num_processes)

    def rotate(self, step: int, best: str | None) -> None:
        """
        Removes the oldest ones, now that the newest is whole.

        Args:
            step (`int`): Step of the newest.
            best (`str`, *optional*): The checkpoint of the best model so far, which stays.
        """
        if self.saves:
            rotate(self.output_dir, self.limit, str(self.folder(step)), best)
        self.saved_step = step
