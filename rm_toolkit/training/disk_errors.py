"""A full disk, whichever library runs into it: one error that says that nothing was lost, and what to do."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .manifest import newest_complete, read_manifest


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ALMOST_NOTHING = 1 << 22  # bytes; torch.save does not report why a write failed


@contextlib.contextmanager
def named_disk_errors(output_dir: str, unfinished: Path | None = None) -> Iterator[None]:
    """
    Turns the various errors that libraries raise on a full disk into one that says what to do.

    Args:
        output_dir (`str`): The folder written to.
        unfinished (`Path`, *optional*): A folder that is useless if writing it fails; removed to make room.

    Raises:
        `InputError`: naming the folder, the error and the last good checkpoint.
    """
    try:
        yield
    except Exception as error:  # tokenizers raises `Exception`, torch `RuntimeError`, safetensors its own
        if isinstance(error, InputError) or not _is_full_disk(error, output_dir):
            raise
        if unfinished is not None and read_manifest(unfinished) is None:
            shutil.rmtree(unfinished, ignore_errors=True)
        found = newest_complete(output_dir)
        kept = f"The last good checkpoint is {found}" if found else "There is no checkpoint yet"
        full = InputError(
            f"{unfinished or output_dir} could not be written: the disk is full ({error}). {kept}. Make room, then resume "
            "with --resume_from_checkpoint auto (`save_total_limit` keeps fewer checkpoints)."
        )
        full.of_one_process = True  # the others may have space; they end when this one has exited
        raise full from error


def _is_full_disk(error: BaseException, output_dir: str) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if getattr(seen, "errno", None) in FULL_DISK or "No space left" in text or "File too large" in text:
            return True
        if "PytorchStreamWriter" in text or "inline_container" in text:
            return not Path(output_dir).exists() or shutil.disk_usage(output_dir).free < ALMOST_NOTHING
        seen = seen.__cause__ or seen.__context__
    return False
