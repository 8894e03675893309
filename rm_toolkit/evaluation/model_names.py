"""Names of several models in a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, name_list


def name_models(models: Sequence[str]) -> dict[str, str]:
    """
    Names each model after the last parts of its path, as many as make the names unique; `NAME=PATH` sets a name.

    Raises:
        `InputError`: if a model is given twice.
    """
    if len(set(map(str, models))) < len(models):
        raise InputError(f"a model is given twice ({name_list(map(str, models))}). Give each model once.")
    given = [_split_name(str(text)) for text in models]
    names = []
    for name, path in given:
        parts = path.rstrip("/").split("/")
        others = [other.rstrip("/").split("/") for own, other in given if other != path and own is None]
        depth = 1
        while depth < len(parts) and any(other[-depth:] == parts[-depth:] for other in others):
            depth += 1
        names.append(name or "/".join(parts[-depth:]))
    if len(set(names)) < len(names):
        raise InputError(f"two models have the same name ({name_list(names)}). Name them with NAME=DIR.")
    return {name: path for name, (_, path) in zip(names, given)}


def _split_name(text: str) -> tuple[str | None, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals and name and path and not Path(text).exists() else (None, text)
