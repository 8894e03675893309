"""The raw formats that can be read, one per module: each turns one raw record into a `RawRow`."""

from __future__ import annotations

from ...errors import InputError, did_you_mean, name_list
from . import (
    alpaca,
    arena,
    argilla,
    distilabel,
    dsp,
    gpt4llm,
    helpsteer,
    hh,
    jsonl,
    label_studio,
    nectar,
    oasst,
    pku,
    preference,
    ranked_lists,
    sharegpt,
    shp,
    text_score,
    ultrafeedback,
    webgpt,
)
from .base import Source, SourceOptions


_PAPERS = (dsp, text_score, hh, webgpt, gpt4llm, jsonl, preference)
_FORMS = (
    alpaca,
    sharegpt,
    oasst,
    nectar,
    ranked_lists,
    shp,
    pku,
    arena,
    argilla,
    label_studio,
    distilabel,
    ultrafeedback,
    helpsteer,
)
_MODULES = _PAPERS + _FORMS
SOURCES: dict[str, Source] = {module.SOURCE.name: module.SOURCE for module in _MODULES}


def find_source(name: str) -> Source:
    """Returns the source with this name; raises an `InputError` with a suggestion if there is none."""
    if name not in SOURCES:
        raise InputError(f"there is no source '{name}', only {name_list(SOURCES)}.{did_you_mean(name, SOURCES)}")
    return SOURCES[name]


__all__ = ["SOURCES", "Source", "SourceOptions", "find_source"]
