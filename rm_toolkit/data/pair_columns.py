"""Columns of ranked rows and of pairs: expands batches into pairs, adds absent columns, removes empty ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .fingerprints import derived
from .messages import TEMPLATE_COLUMNS
from .pairing import pair_up
from .schema import OPTIONAL_COLUMNS, pair_features


if TYPE_CHECKING:
    from datasets import Dataset, Features


Batch = dict[str, list[Any]]
SHARED_COLUMNS = ("prompt", "margin", "domain", "source", "prompt_id", *TEMPLATE_COLUMNS)


def expand_batch(batch: Batch) -> Batch:
    """
    Turns a batch of ranked rows into pairs, in row order, the better-scored text as `chosen`. Label ties become pairs
    too, after those of their row, to be counted and dropped.

    Args:
        batch (`dict[str, list]`): The columns of `ranked_features`.

    Returns:
        `dict[str, list]`: The columns of `pair_features`.
    """
    shared = [name for name in SHARED_COLUMNS if name in batch]
    out: Batch = {name: [] for name in (*pair_features("text"), *shared)}
    for n, scores in enumerate(batch["scores"]):
        texts, domains = batch["completions"][n], batch["completion_domains"][n]
        stated = pair_up(scores, domains, batch["domain"][n])
        for better, worse in stated.pairs + stated.ties:
            out["chosen"].append(texts[better])
            out["rejected"].append(texts[worse])
            out["score_chosen"].append(scores[better])
            out["score_rejected"].append(scores[worse])
            out["rejected_domain"].append(None if domains is None else domains[worse])
            for name in shared:
                out[name].append(batch[name][n])
    return out


def complete_columns(dataset: Dataset, features: Features) -> Dataset:
    """Adds absent optional columns as nulls, and puts the columns in order."""
    for name in features:
        if name not in dataset.column_names:
            dataset = dataset.add_column(name, [None] * len(dataset), feature=features[name])
    return dataset.select_columns(list(features))


def drop_empty_columns(dataset: Dataset) -> Dataset:
    """Removes optional columns with only nulls; a row without a margin among others gets margin 0."""
    arrow = dataset.with_format("arrow")
    nulls = {name: arrow[name].null_count for name in OPTIONAL_COLUMNS if name in dataset.column_names}
    if 0 < nulls.get("margin", 0) < len(dataset):
        dataset = dataset.map(
            _fill_margin, batched=True, new_fingerprint=derived(dataset, "margin"), desc="Filling in margins of 0"
        )
    if 0 < nulls.get("chat_template_kwargs", 0) < len(dataset):  # TRL reads an empty object, but not null
        dataset = dataset.map(
            _fill_kwargs, batched=True, new_fingerprint=derived(dataset, "kwargs"), desc="Filling in empty objects"
        )
    return dataset.remove_columns([name for name, number in nulls.items() if number == len(dataset)])


def _fill_margin(batch: Batch) -> Batch:
    return {"margin": [margin or 0.0 for margin in batch["margin"]]}


def _fill_kwargs(batch: Batch) -> Batch:
    return {"chat_template_kwargs": [kwargs or {} for kwargs in batch["chat_template_kwargs"]]}
