"""
Reads records from JSON files in several forms, recognized by the beginning of the file.

- JSON Lines, and objects one after the other in any layout (pretty-printed, ended by CR alone);
- an array of objects;
- one object that holds the list of objects (`{"data": […]}`), or the columns (`{"prompt": […], "chosen": […]}`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import IO, Any

from ..errors import InputError, name_list
from ..output.strict_json import once, strict_json
from .files import READ, damaged_gzip, not_utf8, open_binary
from .places import Place


# Keys of an object that contain the list of its rows.
LISTS_OF_ROWS = frozenset(
    ["data", "rows", "records", "examples", "instances", "items", "samples", "results", "dataset", "entries"]
)
SPLITS = frozenset(["train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"])
# In one row these are one text or one conversation, so a list of texts under such a key is a column.
ONE_TEXT = frozenset(
    ["prompt", "instruction", "question", "query", "chosen", "rejected", "response", "response_a", "response_b"]
)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_json(path: str) -> Iterator[tuple[Place, Any]]:
    """
    Yields the records of a file of JSON; for a line of JSON Lines that cannot be read, the error itself.

    Raises:
        `InputError`: if the file as a whole cannot be read.
    """
    try:
        with open_binary(path) as file:
            head = _first_character(file)
            if head == b"":
                return
            if head == b"[":
                yield from _read_array(path, file)
            elif _is_lines(file):
                yield from _read_lines(path, file)
            else:
                yield from _read_whole(path, file)
    except (EOFError, gzip.BadGzipFile) as error:
        raise damaged_gzip(path, error) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error


def is_json_lines(path: str) -> bool:
    """Whether a file of JSON is read line by line."""
    with open_binary(path) as file:
        return _first_character(file) not in (b"", b"[") and _is_lines(file)


def _first_character(file: IO[bytes]) -> bytes:
    """Returns the first byte that is not white space (a byte-order mark counts as white space); rewinds the file."""
    head = b""
    while head == b"":
        chunk = file.read(4096)
        if not chunk:
            break
        head = chunk.removeprefix(BYTE_ORDER_MARK).strip()[:1]
    file.seek(0)
    return head


def _is_lines(file: IO[bytes]) -> bool:
    """Whether to read line by line: not if the first object continues on the next line, or is the only one."""
    lines = (line.removeprefix(BYTE_ORDER_MARK) for line in file)
    filled = (line.strip() for line in lines if line.strip())
    first, second = next(filled, b""), next(filled, None)
    file.seek(0)
    try:
        value = json.loads(first)
    except (UnicodeDecodeError, RecursionError):
        return True
    except ValueError as error:
        if not isinstance(error, json.JSONDecodeError):  # an integer with more digits than Python reads
            return True
        if error.msg == "Extra data":  # several objects in one line, or garbage after one
            return not error.doc[error.pos :].startswith("{")
        is_cut = error.pos >= len(error.doc.rstrip())
        return not is_cut or second is None or _is_object(second)
    return second is not None or not isinstance(value, dict)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _read_array(path: str, file: IO[bytes]) -> Iterator[tuple[Place, Any]]:
    text = _decode(path, file.read())
    try:
        items = strict_json(text)
    except json.JSONDecodeError as error:
        raise _broken(path, error) from error
    del text
    for number, item in enumerate(items, 1):
        yield Place(path, "item", number), item


def _read_whole(path: str, file: IO[bytes]) -> Iterator[tuple[Place, Any]]:
    """Reads objects one after the other, with anything between them; a single object may contain all the rows."""
    text = _decode(path, file.read())
    values, position, decoder = [], 0, json.JSONDecoder(object_pairs_hook=once)
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        try:
            value, position = strict_json(text, lambda whole: decoder.raw_decode(whole, position))  # noqa: B023
        except json.JSONDecodeError as error:
            raise _broken(path, error) from error
        values.append(value)
    del text
    if len(values) == 1:
        yield from _rows_of(path, values[0])
        return
    for number, value in enumerate(values, 1):
        yield Place(path, "item", number), value


def _rows_of(path: str, value: Any) -> Iterator[tuple[Place, Any]]:
    """The rows of the only object of a file: those that it contains, or the object itself."""
    held = (
        {name: entry for name, entry in value.items() if _is_list_of(entry, dict)} if isinstance(value, dict) else {}
    )
    if len(held) > 1 and held.keys() <= SPLITS:
        raise InputError(
            f"{path}: one object with the splits {name_list(held)}. Write each into its own file, and pass "
            "--input train=FILE test=FILE."
        )
    if len(held) == 1 and next(iter(held)) in LISTS_OF_ROWS | SPLITS:
        for number, item in enumerate(next(iter(held.values())), 1):
            of_viewer = item.keys() >= {"row_idx", "row"}  # as returned by the Hub's viewer
            yield Place(path, "item", number), item["row"] if of_viewer else item
        return
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in LISTS_OF_ROWS | SPLITS:
        inner = next(iter(value.values()))  # {"data": {"prompt": […], …}}
        value = inner if _is_by_number(inner) or _columns(inner) is not None else value
    if _is_by_number(value):  # {"0": {…}, "1": {…}}, as pandas writes rows by their index
        for number, row in enumerate(value.values(), 1):
            yield Place(path, "item", number), row
        return
    columns = _columns(value)
    if columns is None:
        yield Place(path, "line", 1), value
        return
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise InputError(f"{path}: one object whose columns differ in length ({told}). Fix or remove one.")
    for number, row in enumerate(zip(*columns.values()), 1):
        yield Place(path, "row", number), dict(zip(columns, row))


def _columns(value: Any) -> dict[str, list[Any]] | None:
    """The columns of an object, as lists or as pandas writes them; `None` if the object is a row."""
    if not isinstance(value, dict):
        return None
    names, rows = value.get("columns"), value.get("data")
    if _is_list_of(names, str) and _is_list_of(rows, list):  # {"columns": […], "index": […], "data": [[…], …]}
        return {name: [row[n] if n < len(row) else None for row in rows] for n, name in enumerate(names)}
    if not ONE_TEXT & value.keys():
        return None
    if all(isinstance(column, dict) and column for column in value.values()):  # {"prompt": {"0": …, "1": …}, …}
        keys = list(next(iter(value.values())))
        if all(key.isdigit() for key in keys) and all(list(column) == keys for column in value.values()):
            return {name: list(column.values()) for name, column in value.items()}
        return None
    if not all(isinstance(column, list) for column in value.values()):
        return None
    named = [value[name] for name in ONE_TEXT & value.keys()]
    return value if all(_is_list_of(column, str | list) for column in named) else None


def _is_by_number(value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(key.isdigit() and isinstance(row, dict) for key, row in value.items())


def _is_list_of(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, kind) for entry in value)


def _read_lines(path: str, file: IO[bytes]) -> Iterator[tuple[Place, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            place = Place(path, "line", number)
            yield place, parse_line(place, line, first=number == 1)


def parse_line(place: Place, line: bytes, *, first: bool) -> Any:
    """
    Returns the value of a line of JSON Lines, or the error if it cannot be read.

    Args:
        place (`Place`): Place of the line.
        line (`bytes`): The line.
        first (`bool`): Whether it is the first of its file, which may begin with a byte-order mark.
    """
    try:
        return strict_json(line.decode("utf-8-sig" if first else "utf-8").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return place.error(*not_utf8(error))
    except json.JSONDecodeError as error:
        if not error.doc:  # it can be parsed, but not used
            return place.error(f"not valid JSON: {error.msg}.", "Fix or remove the line.")
        problem = f"not valid JSON ({error.msg}). Every line must be one complete object."
        if first and error.pos == 0:
            problem += f" {READ}."
        return InputError(f"{place.file}, line {place.number}, column {error.colno}: {problem}")


def _decode(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: {' '.join(not_utf8(error))}") from error


def _broken(path: str, error: json.JSONDecodeError) -> InputError:
    if not error.doc:
        return InputError(f"{path}: not valid JSON: {error.msg}. Correct the file.")
    where = f"{path}, line {error.lineno}, column {error.colno}"
    return InputError(f"{where}: not valid JSON ({error.msg}). Correct the file there.")
