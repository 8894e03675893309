"""
Writes the text-score format of the original work: `[{"text": [str, …], "score": [float, …]}]`.

The exact output of the original converter, without cleaning: texts sorted by score, best first, equal scores in
*reverse* file order (it reverses an ascending sort), scores divided by (best + 1e-5).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..output.folders import replaced_file
from .build import BuildOptions
from .inputs import resolve_inputs
from .pairing import pair_up
from .recognition import source_named
from .rows import iterate_raw_rows, template_of
from .schema import RawRow, check_choice
from .sources.base import LeftOut
from .templates import arrange


logger = logging.getLogger(__name__)

EXPORT_KINDS = ("text-score",)


def text_score_items(row: RawRow, template: str, shape: str) -> list[dict[str, list[Any]]]:
    """
    Returns the items of one row: the row itself for `ranked`, one per two texts with different scores for `pairs`.

    Args:
        row (`RawRow`): The row as read by its source.
        template (`str`): Text put around a plain-text prompt.
        shape (`str`): `ranked` or `pairs`.
    """
    prompt, completions = arrange(row.prompt, row.completions, "text", template, row.system)
    scored = [(prompt + text, score) for text, score in zip(completions, row.scores)]
    if shape == "ranked":
        return [_item(scored)]
    pairs = pair_up(row.scores).pairs
    return [_item([scored[min(pair)], scored[max(pair)]]) for pair in pairs]


def _item(scored: list[tuple[str, float]]) -> dict[str, list[Any]]:
    ordered = sorted(scored, key=lambda entry: entry[1])[::-1]
    best = ordered[0][1] + 1e-5
    return {"text": [text for text, _ in ordered], "score": [score / best for _, score in ordered]}


def write_text_score(items: Iterable[dict[str, list[Any]]], path: Path) -> int:
    """
    Writes the items as one JSON array, or as JSON Lines if the name ends in `.jsonl`. Replaces the file atomically.

    Returns:
        `int`: Number of items written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    opening, between, closing = ("", "\n", "\n") if lines else ("[", ", ", "]")
    number = 0
    with replaced_file(path) as file:
        file.write(opening)
        for item in items:
            file.write((between if number else "") + json.dumps(item, ensure_ascii=False))
            number += 1
        file.write(closing)
    return number


def export_text_score(
    source_name: str, inputs: list[str], path: Path, kind: str, options: BuildOptions, shape: str, overwrite: bool
) -> int:
    """
    Reads raw inputs and writes them as text-score, without cleaning.

    Args:
        source_name (`str`): One of `SOURCES`.
        inputs (`list[str]`): One file, or several of one split; a given split of two needs two exports.
        path (`Path`): The file to write.
        kind (`str`): `text-score`, the only format.
        options (`BuildOptions`): Settings of the reading.
        shape (`str`): `ranked` (one item per row) or `pairs`.
        overwrite (`bool`): Whether an existing file may be replaced.

    Returns:
        `int`: Number of items written.
    """
    check_choice("export", kind, EXPORT_KINDS)
    if path.is_dir():
        raise InputError(f"{path}: a folder has that name; --export needs a file.")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: the file exists. Use another name, or pass --overwrite.")
    source = source_named(source_name, inputs, options)
    options.check_for(source)
    parts = resolve_inputs(source, inputs, options)
    if len(parts) > 1:
        raise InputError(
            "--export writes one file, but the input has two splits; export train=FILE and test=FILE separately."
        )
    told: Counter[str] = Counter()

    def items() -> Iterator[dict[str, list[Any]]]:
        template = template_of(source, options)
        for row in iterate_raw_rows(source, next(iter(parts.values())), options, options.skip_invalid):
            if isinstance(row, RawRow):
                told.update(row.notes)
                yield from text_score_items(row, template, shape)
            else:
                told[str(row) if isinstance(row, LeftOut) else "records that cannot be used left out"] += 1

    number = write_text_score(items(), path)
    for note, times in told.items():
        logger.warning("%s: %d %s", path, times, note)
    return number
