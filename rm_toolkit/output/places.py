"""Which file or folder a disk error is about, if the library that raised it does not say so."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


ALMOST_NOTHING = 1 << 16  # bytes


@contextlib.contextmanager
def about(place: str | os.PathLike | None) -> Iterator[None]:
    """
    A context that tells errors what was being written; the innermost one counts.

    Args:
        place (`str` or `os.PathLike`, *optional*): File or folder; `None`: the cache of the datasets library.
    """
    try:
        yield
    except Exception as error:
        with contextlib.suppress(AttributeError):  # an exception may not allow attributes
            if getattr(error, "place", None) is None:
                error.place = os.fspath(_datasets_cache() if place is None else place)  # type: ignore[attr-defined]
        raise


def full_place() -> str | None:
    """Returns the first folder that libraries write to on their own and that is full."""
    return next((place for place in (_datasets_cache(), _temporary(), os.curdir) if is_full(place)), None)


def is_full(place: str) -> bool:
    """Whether the file system of a path, which need not exist, has no space for data or for another file."""
    with contextlib.suppress(OSError, AttributeError, StopIteration):
        existing = next(path for path in (Path(place), *Path(place).absolute().parents) if path.exists())
        seen = os.statvfs(existing)
        return seen.f_bavail * seen.f_frsize < ALMOST_NOTHING or (seen.f_files > 0 and seen.f_favail == 0)
    return False


def _datasets_cache() -> str:
    datasets = sys.modules.get("datasets")
    config = getattr(datasets, "config", None)
    return str(getattr(config, "HF_DATASETS_CACHE", None) or "~/.cache/huggingface/datasets")


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR", "/tmp")
