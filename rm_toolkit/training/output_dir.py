"""The output folder of a training run: one run at a time has it."""

from __future__ import annotations

import contextlib
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..errors import InputError
from ..output.lock import WriterLock


def hold_output_dir(output_dir: str) -> contextlib.AbstractContextManager:
    """
    Takes the output folder of a run before anything in it is read. The main process takes it, all hear the result.

    Returns:
        A context manager that lets others have it. Left alone, the end of the process does so.

    Raises:
        `InputError`: naming the process that writes into it.
    """
    lock, problem = contextlib.nullcontext(), None
    if PartialState().is_main_process:
        try:
            lock = WriterLock(output_dir)
        except InputError as error:
            problem = str(error)
    answer: list[Any] = [problem]
    broadcast_object_list(answer)
    if answer[0]:
        raise InputError(answer[0])
    return lock
