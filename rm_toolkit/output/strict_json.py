"""JSON without duplicate keys; everything that cannot be read is a `JSONDecodeError`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..errors import one_line


MOST_DEPTH = 100  # code that reads the values recurses once or twice per level


def too_deep(value: Any) -> bool:
    """Whether a value of lists and mappings is nested deeper than `MOST_DEPTH` levels."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """
    Builds an object from pairs of key and value, for `object_pairs_hook`.

    Raises:
        `json.JSONDecodeError`: if a key is given twice; the plain decoder keeps the last one silently.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise json.JSONDecodeError(f"the key '{one_line(twice, 60)}' is given twice", "", 0)
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=once)


def _loads(text: str | bytes) -> Any:
    """Like `json.loads`, which would create a decoder at every call."""
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    if text.startswith("\ufeff"):
        raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
    return _DECODER.decode(text)


def strict_json(text: str | bytes, parse: Callable[[Any], Any] = _loads) -> Any:
    """
    Parses a JSON text.

    Args:
        text (`str` or `bytes`): The text.
        parse: The parser; with `object_pairs_hook=once`.

    Raises:
        `json.JSONDecodeError`: also for a key that is given twice, for too deep nesting, and for an integer with more
            digits than Python reads.
        `UnicodeDecodeError`: for bytes that are not UTF-8.
    """
    try:
        value = parse(text)
        if sum(map(text.count, ("[", "{") if isinstance(text, str) else (b"[", b"{"))) > MOST_DEPTH and too_deep(
            value
        ):
            raise json.JSONDecodeError(f"nested deeper than {MOST_DEPTH} levels", "", 0)
        return value
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:
        problem = "a whole number with too many digits" if "digits" in str(error) else str(error)
        raise json.JSONDecodeError(problem, "", 0) from None
