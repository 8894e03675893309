"""The contents of a folder, to compare before and after."""

from __future__ import annotations

import os
from pathlib import Path


def tree(folder: str | os.PathLike) -> dict[str, str | bytes]:
    """Every path below a folder, with its content; links are not followed."""
    found: dict[str, str | bytes] = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = "folder" if path.is_dir() else path.read_bytes()
    return found
