"""The checkpoints of a run: where they are, when one counts as complete, and which ones are kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from accelerate.utils import gather_object

from ..output.shared_files import await_files
from ..output.written import record_written
from .manifest import clear_leftovers, newest_complete, remove_checkpoint, rotate, write_manifest
from .run_files import begin_run


class Checkpoints:
    """
    The `checkpoint-N` folders of a run. Only the processes that save change the disk; the others do nothing.

    Args:
        output_dir (`str`): Output folder of the run.
        limit (`int`, *optional*): How many to keep; `None` or 0 keeps all.
        saves (`bool`): Whether this process saves.
        num_processes (`int`): Processes of the run.
        on_each_machine (`bool`): Whether each machine has its own copy of the folder.
    """

    def __init__(
        self,
        output_dir: str,
        limit: int | None = None,
        *,
        saves: bool = True,
        num_processes: int = 1,
        on_each_machine: bool = False,
    ):
        self.output_dir, self.limit, self.saves, self.num_processes = output_dir, limit, saves, num_processes
        self.on_each_machine = on_each_machine
        self.saved_step: int | None = None  # of the last checkpoint that was written or resumed from

    def folder(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return Path(self.output_dir, f"checkpoint-{step}")

    def newest(self) -> str | None:
        """Returns the newest checkpoint that was completed, or `None`."""
        return newest_complete(self.output_dir)

    def begin_run(self, folder: str | os.PathLike | None) -> None:
        """Called when a run begins or resumes: removes what a killed run left unfinished."""
        self.saved_step = int(Path(folder).name.rpartition("-")[2]) if folder else None
        if self.saves:
            begin_run(self.output_dir)
            clear_leftovers(self.output_dir, self.saved_step)

    def begin(self, step: int) -> Path:
        """Makes room for the checkpoint of a step, and returns its folder."""
        folder = self.folder(step)
        if self.saves:
            record_written(self.output_dir, [f"{folder.name}/"])
            if folder.exists():
                remove_checkpoint(folder)
        return folder

    def seen_by_all(self, step: int) -> list[str]:
        """
        Returns the files of the checkpoint of a step that any process sees: a machine may see another's files a little
        later. All processes call it. Empty if each machine has its own folder (`save_on_each_node`).
        """
        if self.num_processes == 1 or self.on_each_machine:
            return []
        folder = self.folder(step)
        return gather_object([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()])

    def seal(self, step: int, names: Iterable[str] = ()) -> None:
        """
        Called when all processes have written their part of the checkpoint of a step: marks it complete.

        Args:
            step (`int`): The step.
            names (`Iterable[str]`): Files that the processes see; those of another machine are waited for.

        Raises:
            `InputError`: if they do not appear.
        """
        if self.saves:
            await_files(self.folder(step) / name for name in sorted({*names}))
            write_manifest(self.folder(step), self.num_processes)

    def rotate(self, step: int, best: str | None) -> None:
        """
        Removes the oldest checkpoints, now that the newest is complete.

        Args:
            step (`int`): Step of the newest.
            best (`str`, *optional*): The checkpoint of the best model so far, which is kept.
        """
        if self.saves:
            rotate(self.output_dir, self.limit, str(self.folder(step)), best)
        self.saved_step = step
