"""What several models are called in a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, name_list


def name_models(models: Sequence[str]) -> dict[str, str]:
    """
    Names models after the last part of their path, or as much of it as tells them apart; `NAME=PATH` names one itself.

    Raises:
        `InputError`: if a model is given twice.
    """
    if len(set(map(str, models))) < len(models):
        raise InputError(f"a model is named twice ({name_list(map(str, models))}); give each of them once.")
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
        raise InputError(f"two models have the same name ({name_list(names)}); name them yourself: NAME=DIR.")
    return {name: path for name, (_, path) in zip(names, given)}


def _split_name(text: str) -> tuple[str | None, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals and name and path and not Path(text).exists() else (None, text)
