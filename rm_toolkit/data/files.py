"""Recognizes the type of a file by its first bytes: opens it (also through gzip), or refuses it and says what to do."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO

from ..errors import InputError


GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
TABLES = {".csv": ",", ".tsv": "\t"}
READ = "JSON, JSON Lines, CSV (.csv), TSV (.tsv) and Parquet files are read, gzipped or not"
_SHEET = (
    "Save the sheet as CSV in UTF-8, or convert it: "
    "pandas.read_excel(FILE).to_json('rows.jsonl', orient='records', lines=True, force_ascii=False)."
)
_UNPACK = f"Unpack it first; {READ}."
# First bytes -> type of the file, and what to do.
_OTHER_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0", "an Excel (.xls) or other old Office file", _SHEET),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"ARROW1", "an Arrow file", "Give the folder that `save_to_disk` wrote, or save it as Parquet."),
    (b"FEA1", "a Feather file", "Save it as Parquet."),
    (b"Obj\x01", "an Avro file", "Save it as JSON Lines or Parquet."),
    (b"SQLite format 3", "an SQLite database", "Write the rows into a JSON Lines file."),
    (b"\x80\x04", "a pickle, which is never opened", "Write the rows into a JSON Lines file."),
    (b"\x80\x05", "a pickle, which is never opened", "Write the rows into a JSON Lines file."),
    (b"%PDF", "a PDF", f"Write the rows into a JSON Lines file; {READ}."),
    (b"<!DOCTYPE", "a web page, not data", "Download the file itself ('raw' or 'resolve' in its address)."),
    (b"<html", "a web page, not data", "Download the file itself ('raw' or 'resolve' in its address)."),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "Fetch the file with `git lfs pull`."),
)
_ZIPPED = {
    ".xlsx": ("an Excel workbook (.xlsx)", _SHEET),
    ".xlsm": ("an Excel workbook (.xlsm)", _SHEET),
    ".ods": ("an OpenDocument sheet (.ods)", _SHEET),
}
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def open_binary(path: str) -> IO[bytes]:
    """Opens a file for reading bytes, through gzip if it starts like a gzip file."""
    with open(path, "rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if zipped else open(path, "rb")


def kind_of(path: str) -> str:
    """
    Returns how a file is read: `parquet`, `table` (cells with a separator) or `json`.

    Raises:
        `InputError`: for a file of another type, naming the type and what to do.
    """
    try:
        with open_binary(path) as file:
            head = file.read(64)
    except (EOFError, gzip.BadGzipFile) as error:
        raise damaged_gzip(path, error) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if head.startswith(PARQUET_MAGIC) or Path(path).suffix == ".parquet":
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        what, remedy = _ZIPPED.get(Path(path).suffix.lower(), ("a zip archive", _UNPACK))
        raise InputError(f"{path}: the file is {what}. {remedy}")
    for magic, what, remedy in _OTHER_KINDS:
        if head.startswith(magic):
            raise InputError(f"{path}: the file is {what}. {remedy}")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            raise InputError(
                f"{path}, line 1: not UTF-8 but {encoding} (byte 0x{head[0]:02x} begins its byte-order mark). Save the "
                f"file in UTF-8: iconv -f {encoding} -t UTF-8 FILE > NEW."
            )
    return "json" if separator_of(path) is None else "table"


def separator_of(path: str) -> str | None:
    """Returns the cell separator of a table by its file name; `None` for files that are not tables."""
    endings = [ending.lower() for ending in Path(path).suffixes]
    if endings and endings[-1] == ".gz":
        endings.pop()
    return TABLES.get(endings[-1]) if endings else None


def damaged_gzip(path: str, error: Exception) -> InputError:
    """Returns the error for a gzip file that cannot be read to its end."""
    return InputError(f"{path}: the gzip file is damaged or truncated ({error}). Download it again.")


def not_utf8(error: UnicodeDecodeError) -> tuple[str, str]:
    """Returns what is wrong with bytes that are not UTF-8, and what to do."""
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x}).", "Save the file in UTF-8."
