"""Arrays in one `.npz` file that the processes of a machine map, instead of each holding a copy."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np


MAPPED_BYTES = 1 << 20  # smaller arrays are read; a page of memory is not worth a mapping
ALIGNED = 64  # bytes: where the data of an array may begin, so that it can be used in place
PADDING = 0x6D72  # our mark on the extra field of a member that only moves what follows
LOCAL_HEADER, ZIP64_EXTRA, EXTRA_HEAD = 30, 20, 4


def write_arrays(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """
    Writes a file for `np.load`, with each array aligned for mapping.

    Args:
        file (`IO[bytes]`): Open for writing, at its beginning.
        arrays (mapping): Arrays by name.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, values in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            begin = file.tell() + LOCAL_HEADER + len(member.filename.encode()) + ZIP64_EXTRA + EXTRA_HEAD
            padding = -begin % ALIGNED
            member.extra = struct.pack("<HH", PADDING, padding) + bytes(padding)
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(values, order="C"), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """
    Reads an `.npz` file. Large arrays are mapped copy-on-write: their pages are those of the file until something writes
    into them, and changes stay in this process.

    Args:
        path (`Path`): A file from [`write_arrays`] or `np.savez`.

    Raises:
        `OSError`, `ValueError`, `KeyError` or `zipfile.BadZipFile`: if it is not such a file.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        mapped = {name: _mapped(path, file, member) for name, member in members.items()}
        return {name: _read(archive, members[name]) if values is None else values for name, values in mapped.items()}


def mapped_from(values: np.ndarray) -> str | None:
    """Returns the file and offset that an array of [`read_arrays`] is mapped from; `None` for one in memory."""
    owner = values
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    if not isinstance(owner, np.memmap) or not values.flags.c_contiguous:
        return None
    return f"{owner.filename}:{owner.offset + values.ctypes.data - owner.ctypes.data}"


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _mapped(path: Path, file: IO[bytes], member: zipfile.ZipInfo) -> np.ndarray | None:
    """The array of a member, mapped in place; `None` if it must be read instead."""
    if member.file_size < MAPPED_BYTES or member.compress_type != zipfile.ZIP_STORED:
        return None
    file.seek(member.header_offset)
    header = file.read(LOCAL_HEADER)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    file.seek(name_length + extra_length, 1)
    if np.lib.format.read_magic(file) != (1, 0):
        return None
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    options: dict[str, Any] = {"shape": shape, "offset": file.tell(), "order": "F" if fortran else "C"}
    if dtype.hasobject or file.tell() % dtype.itemsize:
        return None
    return np.asarray(np.memmap(path, dtype=dtype, mode="c", **options))
