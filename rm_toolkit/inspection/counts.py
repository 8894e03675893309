"""Counts for a set of preferences: pairs and their problems, lengths, and overlap with other sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.cleaning import clean_pairs
from ..data.messages import TEMPLATE_COLUMNS
from ..data.pair_columns import complete_columns
from ..data.pairing import label_scores
from ..data.records import RowPlace
from ..data.schema import features_like


if TYPE_CHECKING:
    from datasets import Dataset


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def as_ranked(dataset: Dataset) -> Dataset:
    """
    Returns the rows as ranked rows with all optional columns; a pair becomes a row of two.

    Args:
        dataset (`datasets.Dataset`): Pairs or ranked rows, with their tags.

    Raises:
        `InputError`: naming the first pair whose scores contradict its label.
    """
    features = features_like(dataset.features, "ranked")
    if "chosen" in dataset.column_names:
        dataset = dataset.map(
            _row_of_two,
            batched=True,
            with_indices=True,
            remove_columns=dataset.column_names,
            features=features,
            desc="Arranging",
        )
    return complete_columns(dataset, features)


def count_rows(ranked: Dataset) -> dict[str, int]:
    """
    Counts rows, prompts and pairs, and the pairs that cleaning would remove.

    Args:
        ranked (`datasets.Dataset`): From [`as_ranked`], not cleaned.

    Returns:
        `dict[str, int]`: `rows`, `prompts`, `repeated_prompts` (rows whose prompt an earlier row has), `pairs` (ties
        included), `empty`, `identical`, `ties`, `duplicates`, and `clean_pairs`, those that remain.
    """
    _, counts = clean_pairs(ranked)
    prompts = len(ranked.unique("prompt_id"))
    return {
        "rows": len(ranked),
        "prompts": prompts,
        "repeated_prompts": len(ranked) - prompts,
        "pairs": counts.rows,
        "empty": counts.empty,
        "identical": counts.identical,
        "ties": counts.ties,
        "duplicates": counts.duplicates,
        "clean_pairs": counts.kept,
    }


def shared_with(texts: np.ndarray, ids: set[str], other_texts: np.ndarray, other_ids: set[str]) -> dict[str, Any]:
    """
    Counts what two sets share, up to white space.

    Args:
        texts, other_texts (`np.ndarray`): Their texts, from [`~rm_toolkit.inspection.measures.text_digests`].
        ids, other_ids (`set[str]`): Their prompts, by `prompt_id`.

    Returns:
        `dict`: `prompts` and `texts` (prompt with completion) of the first that are also in the second, their share
            of the first, and the sizes of the second.
    """
    prompts, shared = len(ids & other_ids), len(np.intersect1d(texts, other_texts, assume_unique=True))
    return {
        "prompts": prompts,
        "prompts_share": prompts / max(len(ids), 1),
        "texts": shared,
        "texts_share": shared / max(len(texts), 1),
        "other_prompts": len(other_ids),
        "other_texts": len(other_texts),
    }


def describe_lengths(lengths: np.ndarray) -> dict[str, float]:
    """
    Number, mean and quantiles of lengths.

    Args:
        lengths (`np.ndarray` of shape `(num_texts,)`): Lengths of at least one text.
    """
    values = np.quantile(lengths, QUANTILES, method="inverted_cdf").tolist()  # actual lengths, not means of two
    return {
        "texts": len(lengths),
        "mean": float(lengths.mean()),
        **{f"{100 * q:g}%": value for q, value in zip(QUANTILES, values)},
    }


def _row_of_two(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
    empty = [None] * len(batch["chosen"])
    domains = zip(batch["domain"], batch.get("rejected_domain", empty))
    # The margin is not used here.
    return {
        "prompt": batch["prompt"],
        "completions": [list(both) for both in zip(batch["chosen"], batch["rejected"])],
        "scores": [
            label_scores(chosen, rejected, RowPlace("the dataset", "row", number + 1))
            for chosen, rejected, number in zip(batch["score_chosen"], batch["score_rejected"], numbers)
        ],
        "completion_domains": [[own, rival] if rival else None for own, rival in domains],
        "margin": empty,
        **{name: batch[name] for name in ("domain", "source", "prompt_id")},
        **{name: batch[name] for name in TEMPLATE_COLUMNS if name in batch},
    }
