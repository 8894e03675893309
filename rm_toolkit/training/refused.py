"""Rows of a recipe's datasets that the chat template refuses: named by file and line, or left out and counted."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from ..batches.refused_rows import RefusedRow, locate, refusal, without_refused
from ..data.id_rows import id_columns
from ..data.records import RowPlace
from ..data.specs import DatasetSpec
from ..models.tokenizer import DEFAULT_CHAT_TEMPLATE
from .recipe import RecipeArguments


logger = logging.getLogger(__name__)


@contextlib.contextmanager
def refusals_located(recipe: RecipeArguments) -> Iterator[None]:
    """A context in which a row that the chat template refuses is reported with its place in the recipe's data."""
    try:
        yield
    except RefusedRow as error:
        specs = {"train": recipe.train_datasets, "replay": recipe.replay_datasets}.get(error.name) or {}
        places = [(name, spec, "train") for name, spec in specs.items()]
        places += [(name, spec, "test") for name, spec in (recipe.eval_datasets or {}).items() if name == error.name]
        found = (locate(DatasetSpec.parse(spec, name), split, error.tokenizer) for name, spec, split in places)
        for (name, _, _), problem in zip(places, found):
            if problem is not None:
                raise type(problem)(f"dataset '{name}': {problem}") from error
        raise


def readable_data(
    recipe: RecipeArguments, data: tuple[Mapping[str, Any], ...], tokenizer: PreTrainedTokenizerBase, data_format: str
) -> list[dict[str, Any]]:
    """
    Returns training sets, test sets and sets to replay, by [`leave_out_refused`].

    Args:
        recipe (`RecipeArguments`): Its specs.
        data (`tuple`): From [`~rm_toolkit.training.stages.load_stage_data`].
        tokenizer, data_format: As in [`leave_out_refused`].
    """
    specs = (recipe.train_datasets, recipe.eval_datasets, recipe.replay_datasets)
    return [leave_out_refused(sets, given, tokenizer, data_format) for sets, given in zip(data, specs)]


def leave_out_refused(
    datasets: Mapping[str, Dataset | IterableDataset],
    specs: Mapping[str, Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    data_format: str,
) -> dict[str, Dataset | IterableDataset]:
    """
    Returns datasets without the rows that the chat template refuses, if their spec has `skip_invalid`; prints how
    many.

    Args:
        datasets (`Mapping[str, Dataset]`): By name; rows of a stream are checked as they are read.
        specs (`Mapping[str, Any]`, *optional*): The spec that each was loaded with.
        tokenizer (`PreTrainedTokenizerBase`): Its chat template is used, or the default one.
        data_format (`str`): `"text"` or `"chat"`.

    Raises:
        `InputError`: if no row of a dataset is left.
    """
    datasets = dict(datasets)
    for name, dataset in datasets.items() if data_format == "chat" else ():
        spec = (specs or {}).get(name)
        if spec is None or not DatasetSpec.parse(spec, name).skip_invalid or id_columns(dataset.features):
            continue  # already token ids
        if not tokenizer.chat_template:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        if isinstance(dataset, IterableDataset):
            datasets[name] = dataset.filter(partial(_is_rendered, tokenizer=tokenizer, name=name))
            continue
        datasets[name], refused = without_refused(dataset, [tokenizer], name)
        if refused:
            logger.warning(
                "%d rows are left out that the chat template refuses; the first: %s", len(refused), refused[0]
            )
    return datasets


def _is_rendered(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, name: str) -> bool:
    problem = refusal(row, "completions" in row, RowPlace(f"dataset '{name}', a stream", "row", 0), tokenizer)
    if problem is not None:
        logger.warning("left out of '%s': %s", name, problem)
    return problem is None
