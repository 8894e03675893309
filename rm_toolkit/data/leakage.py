"""Counts prompts that a run both trains and evaluates on, and stops the run unless the split is the data authors' own."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, beginning, name_list
from .messages import content_text


if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.getLogger(__name__)


def mark_origin(dataset: Dataset, path: str, split: str | None, kind: str) -> Dataset:
    """
    Records the origin of a dataset's rows in its info, for `check_overlap`.

    Args:
        dataset (`datasets.Dataset`): A loaded dataset; its info is changed.
        path (`str`): File, folder or Hub id.
        split (`str`, *optional*): Its split; `None` for all of it.
        kind (`str`): `given` by the data's authors, `whole` (a file without splits), `made` here, or `none`.
    """
    place = str(Path(path).resolve()) if Path(path).exists() else path
    dataset.info.description = json.dumps({"split": kind, "origin": f"{place}:{split or ''}"})
    return dataset


def split_origin(dataset: Dataset) -> tuple[str, str]:
    """
    Returns `(split, origin)` of a dataset from `load_datasets`.

    `split` is `given` (by the data's authors), `whole` (a file without splits), `made` (here) or `none`; `origin` is
    the source of its rows. `("made", "")` for any other dataset: nothing is known about it, so overlaps are errors.
    """
    try:
        note = json.loads(dataset.info.description)
        return note["split"], note["origin"]
    except (ValueError, KeyError, TypeError):
        return "made", ""


def check_overlap(
    train: Mapping[str, Dataset], evaluation: Mapping[str, Dataset], *, allow_overlap: bool = False
) -> dict[str, int]:
    """
    Looks for prompts (by `prompt_id`) that a run both trains and evaluates on.

    If the split is the data authors' own, a warning gives the count; otherwise the run stops.

    Args:
        train (`dict[str, datasets.Dataset]`): Training sets from `load_datasets`.
        evaluation (`dict[str, datasets.Dataset]`): Test sets from `load_datasets`.
        allow_overlap (`bool`): Always only warn.

    Returns:
        `dict[str, int]`: Number of shared prompts of each evaluation set that has any.

    Raises:
        `InputError`: naming the first shared prompt of the first set.
    """
    found = {}
    seen = {name: set(dataset.unique("prompt_id")) for name, dataset in train.items()}
    for name, dataset in evaluation.items():
        prompts = set(dataset.unique("prompt_id"))
        shared_with = {other: prompts & ids for other, ids in seen.items() if prompts & ids}
        if not shared_with:
            continue
        shared = set().union(*shared_with.values())
        found[name] = len(shared)
        first = next(row for row in dataset if row["prompt_id"] in shared)
        text = shorten_prompt(first)
        problem = (
            f"{len(shared):,} prompts of eval set '{name}' are also in the training mixture "
            f"({name_list(shared_with)}; first: '{text}')."
        )
        fixed = all(authors_split(dataset, train[other]) for other in shared_with)
        if not fixed and not allow_overlap:
            raise InputError(f"{problem} Remove them from one side, or pass --allow-overlap.")
        logger.warning("%s%s", problem, " Their split is the data authors' own." if fixed else "")
    return found


def authors_split(evaluation: Dataset, train: Dataset) -> bool:
    """Whether the authors of the data made the split (and the two are not simply the same rows)."""
    (split, origin), (train_split, train_origin) = split_origin(evaluation), split_origin(train)
    return {split, train_split} <= {"given", "whole"} and origin != train_origin


def shorten_prompt(row: Mapping[str, Any], width: int = 60) -> str:
    """Returns the beginning of a row's prompt (or else of its first text), for a message."""
    if "chosen_ids" in row:
        return beginning(f"token ids {row['chosen_ids']}", width)
    prompt = row["prompt"]
    text = prompt if isinstance(prompt, str) else " ".join(content_text(message) for message in prompt)
    return beginning(text or str(row.get("chosen") or row.get("completions")), width)
