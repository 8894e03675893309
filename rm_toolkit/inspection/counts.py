"""What is in a set of preferences: pairs and what is wrong with them, lengths, and what it shares with other sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.cleaning import clean_pairs
from ..data.messages import TEMPLATE_COLUMNS, canonical
from ..data.pair_columns import complete_columns
from ..data.pairing import label_scores
from ..data.records import RowPlace
from ..data.schema import Text, features_like
from ..data.templates import normalize
from ..evaluation.preferences import PreferencePairs


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
    Counts rows, prompts and pairs, and what cleaning would take out of the pairs.

    Args:
        ranked (`datasets.Dataset`): From [`as_ranked`], not cleaned.

    Returns:
        `dict[str, int]`: `rows`, `prompts`, `repeated_prompts` (rows whose prompt an earlier row has), `pairs` (ties
        included), `empty`, `identical`, `ties`, `duplicates`, and `clean_pairs`, what is left.
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


def shared_with(pairs: PreferencePairs, ids: set[str], other: PreferencePairs, other_ids: set[str]) -> dict[str, Any]:
    """
    Counts what two sets have in common, up to white space.

    Args:
        pairs, other (`PreferencePairs`): The two sets.
        ids, other_ids (`set[str]`): Their prompts, by `prompt_id`.

    Returns:
        `dict`: `prompts` and `texts` (prompt with completion) of the first that also stand in the second, their share
        of the first, and the sizes of the second.
    """
    mine, theirs = _texts(pairs), _texts(other)
    prompts, texts = len(ids & other_ids), len(mine & theirs)
    return {
        "prompts": prompts,
        "prompts_share": prompts / max(len(ids), 1),
        "texts": texts,
        "texts_share": texts / max(len(mine), 1),
        "other_prompts": len(other_ids),
        "other_texts": len(theirs),
    }


def length_groups(pairs: PreferencePairs) -> dict[str, list[tuple[Text, Text]]]:
    """
    The groups whose lengths are shown, each of distinct (prompt, completion): an empty completion stands for the prompt
    alone, an empty prompt for the completion alone.

    Returns:
        `dict[str, list]`: `whole texts`, `prompts`, and the completions: by domain where each has its own, else of
        chosen and rejected responses.
    """
    whole = pairs.texts
    empty: Text = [] if isinstance(pairs.completions[0], list) else ""
    prompts = {normalize(prompt): (prompt, empty) for prompt in pairs.prompts if prompt}
    groups = {"whole texts": whole}
    if prompts:
        groups["prompts"] = list(prompts.values())
    for name, members in completion_groups(pairs).items():
        groups[f"{name} responses"] = [(empty, pairs.completions[k]) for k in members]
    return groups


def completion_groups(pairs: PreferencePairs) -> dict[str, list[int]]:
    """
    Sorts the texts by the domain that wrote them; where that is not known, into chosen and rejected ones.

    Returns:
        `dict[str, list[int]]`: Numbers of the distinct texts of each group, domains in alphabetical order. A text that
        is preferred in one pair and not in another stands in both groups.
    """
    groups: dict[str, dict[int, None]] = {}
    if "rejected_domain" in pairs.tags:
        for side, tag in ((pairs.better, "domain"), (pairs.worse, "rejected_domain")):
            for text, domain in zip(side.tolist(), pairs.tags[tag]):
                if domain:
                    groups.setdefault(domain, {})[text] = None
        groups = dict(sorted(groups.items()))
    else:
        groups = {"chosen": dict.fromkeys(pairs.better.tolist()), "rejected": dict.fromkeys(pairs.worse.tolist())}
    return {name: list(members) for name, members in groups.items()}


def describe_lengths(lengths: np.ndarray) -> dict[str, float]:
    """
    Number, mean and quantiles of lengths.

    Args:
        lengths (`np.ndarray` of shape `(num_texts,)`): Of at least one text.
    """
    values = np.quantile(lengths, QUANTILES, method="inverted_cdf").tolist()  # lengths that occur, no means of two
    return {
        "texts": len(lengths),
        "mean": float(lengths.mean()),
        **{f"{100 * q:g}%": value for q, value in zip(QUANTILES, values)},
    }


def measure(
    groups: dict[str, list[tuple[Text, Text]]], count: Callable[[Sequence[tuple[Text, Text]], bool], np.ndarray]
) -> dict[str, np.ndarray]:
    """
    Lengths of every group.

    Args:
        groups (`dict[str, list]`): From [`length_groups`].
        count (`Callable`): Length of each text; its second argument says whether they are whole texts.
    """
    return {name: count(texts, name == "whole texts") for name, texts in groups.items()}


def _texts(pairs: PreferencePairs) -> set[str]:
    return {
        f"{normalize(p)}\n{normalize(c)}" + "".join(canonical(t) for t in more if t) for p, c, *more in pairs.texts
    }


def _row_of_two(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
    empty = [None] * len(batch["chosen"])
    domains = zip(batch["domain"], batch.get("rejected_domain", empty))
    # A margin means nothing here.
    return {
        "prompt": batch["prompt"],
        "completions": [list(both) for both in zip(batch["chosen"], batch["rejected"])],
        "scores": [
            label_scores(chosen, rejected, RowPlace("the data set", "row", number + 1))
            for chosen, rejected, number in zip(batch["score_chosen"], batch["score_rejected"], numbers)
        ],
        "completion_domains": [[own, rival] if rival else None for own, rival in domains],
        "margin": empty,
        **{name: batch[name] for name in ("domain", "source", "prompt_id")},
        **{name: batch[name] for name in TEMPLATE_COLUMNS if name in batch},
    }
