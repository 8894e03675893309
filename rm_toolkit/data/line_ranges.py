"""JSON Lines in parts: reads a large file from any byte on, for streams on several processes and for resuming."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import GZIP_MAGIC, kind_of
from .json_files import is_json_lines, parse_line
from .places import Place


# Size of a part: at most this much is read again on resume; small enough that every process gets parts.
RANGE_BYTES = 1 << 20


class LinePlace(Place):
    """
    A line of a file that was not read from its beginning: its number is counted only when needed.

    Args:
        file (`str`): The file.
        offset (`int`): Byte at which the line begins.
    """

    def __init__(self, file: str, offset: int):
        for name, value in {"file": file, "unit": "line", "offset": offset}.items():
            object.__setattr__(self, name, value)

    @property
    def number(self) -> int:  # type: ignore[override]
        """Number of the line, from 1."""
        lines, left = 1, self.offset
        with open(self.file, "rb") as file:
            while left and (chunk := file.read(min(left, 1 << 24))):
                lines += chunk.count(b"\n")
                left -= len(chunk)
        return lines


def line_ranges(path: str) -> list[tuple[int, int]]:
    """
    Returns the byte ranges of the parts of a JSON Lines file; one part if it is short, gzipped, or not JSON Lines.

    Args:
        path (`str`): The file.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    if size <= RANGE_BYTES or zipped or kind_of(path) != "json" or not is_json_lines(path):
        return [(0, size)]
    return [(begin, min(begin + RANGE_BYTES, size)) for begin in range(0, size, RANGE_BYTES)]


def read_range(path: str, begin: int, end: int) -> Iterator[tuple[Place, Any]]:
    """
    Yields the records of the lines that begin in a range of bytes, see [`~rm_toolkit.data.records.read_records`].

    Args:
        path (`str`): A file of JSON Lines.
        begin (`int`), end (`int`): From [`line_ranges`].

    Raises:
        `InputError`: if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if begin:  # the line that continues here belongs to the previous range, unless it ends right before
                file.seek(begin - 1)
                file.readline()
            offset = file.tell()
            while offset < end and (line := file.readline()):
                if line.strip():
                    yield LinePlace(path, offset), parse_line(LinePlace(path, offset), line, first=not offset)
                offset += len(line)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
