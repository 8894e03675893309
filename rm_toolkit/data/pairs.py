"""Ranked rows <-> pairs, by the rule of [`~rm_toolkit.data.pairing`]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .cache import remove_left_beside
from .cleaning import clean_pairs
from .fingerprints import derived
from .messages import TEMPLATE_COLUMNS
from .pair_columns import SHARED_COLUMNS, complete_columns, drop_empty_columns
from .pairing import label_scores, pair_up
from .records import RowPlace
from .schema import features_like, find_format, has_free_messages, pair_features, ranked_features
from .usable import usable_rows


if TYPE_CHECKING:
    from datasets import Dataset


ALIKE = ("prompt", "domain", "source", *TEMPLATE_COLUMNS)  # equal in all pairs of one ranked row

TEXTS = ("prompt", "chosen", "rejected", "completions")


def ranked_to_pairs(dataset: Dataset, num_proc: int | None = None) -> Dataset:
    """
    Turns a built dataset of ranked rows into pairs. Ties and pairs of identical texts are left out.

    Args:
        dataset (`datasets.Dataset`): Columns of a ranked row, in text or chat.
        num_proc (`int`, *optional*): Number of processes.

    Raises:
        `InputError`: naming the first row whose scores cannot be used.
    """
    dataset, _ = usable_rows(dataset, _place)
    dataset = complete_columns(dataset, features_like(dataset.features, "ranked"))
    return clean_pairs(dataset, num_proc=num_proc)[0]


def pairs_to_ranked(dataset: Dataset) -> Dataset:
    """
    Merges neighboring pairs of one prompt into a ranked row with their distinct completions, best first.

    Inverts `ranked_to_pairs` exactly, except for rows in which all scores tie. A row never implies a preference that
    no pair states: pairs that do not form a complete ranking stay rows of two.

    Args:
        dataset (`datasets.Dataset`): Columns of a pair, in text or chat.

    Raises:
        `InputError`: naming the first row whose scores cannot be used.
    """
    from datasets import Dataset

    dataset, _ = usable_rows(dataset, _place)
    dataset = complete_columns(dataset, features_like(dataset.features, "pairs"))
    ranked = Dataset.from_generator(
        _merge,
        features=features_like(dataset.features, "ranked"),
        gen_kwargs={"pairs": dataset},
        fingerprint=derived(dataset, "pairs_to_ranked"),
    )
    remove_left_beside(ranked)
    return drop_empty_columns(ranked)


def _place(number: int) -> RowPlace:
    return RowPlace("the dataset", "row", number)


def _merge(pairs: Dataset) -> Iterator[dict[str, Any]]:
    group: list[dict[str, Any]] = []
    scores: dict[str, float] = {}
    for number, pair in enumerate(pairs, 1):
        stated = label_scores(pair["score_chosen"], pair["score_rejected"], _place(number))
        pair = {**pair, "score_chosen": stated[0], "score_rejected": stated[1]}
        mine = {str(pair["chosen"]): pair["score_chosen"], str(pair["rejected"]): pair["score_rejected"]}
        same = bool(group) and all(pair.get(name) == group[0].get(name) for name in ALIKE)
        # The pairs of one ranked row are connected, and each of its texts has one score.
        if (
            not same
            or not mine.keys() & scores.keys()
            or any(scores.get(text, mine[text]) != mine[text] for text in mine)
        ):
            yield from _ranked_rows(group)
            group, scores = [], {}
        group.append(pair)
        scores.update(mine)
    yield from _ranked_rows(group)


def _ranked_rows(group: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if not group:
        return
    entries: dict[Any, tuple[Any, float, str | None]] = {}
    for pair in group:
        for side, domain in (("chosen", pair["domain"]), ("rejected", pair["rejected_domain"])):
            # A single pair keeps both of its texts, even if they are equal.
            key = str(pair[side]) if len(group) > 1 else side
            entries.setdefault(key, (pair[side], pair[f"score_{side}"], domain))
    texts, scores, domains = zip(*sorted(entries.values(), key=lambda entry: -entry[1]))
    differing = sum(pair["score_chosen"] != pair["score_rejected"] for pair in group)
    if len(group) > 1 and len(pair_up(scores).pairs) != differing:
        for pair in group:
            yield from _ranked_rows([pair])
        return
    yield {
        "completions": list(texts),
        "scores": list(scores),
        "completion_domains": list(domains) if domains[-1] is not None else None,
        **{name: group[0][name] for name in SHARED_COLUMNS if name in group[0] and name != "margin"},
        "margin": group[0]["margin"] if len(group) == 1 else None,
    }


def with_same_messages(datasets: list[Dataset]) -> list[Dataset]:
    """Returns datasets that can be concatenated: if one has free messages, all get them, with the related columns."""
    from datasets import Features

    if not any(find_format(part.features) == "chat" and has_free_messages(part.features) for part in datasets):
        return datasets
    names = [name for name in TEMPLATE_COLUMNS if any(name in part.column_names for part in datasets)]
    same = []
    for part in datasets:
        free = (
            pair_features("chat", free=True) if "chosen" in part.column_names else ranked_features("chat", free=True)
        )
        if not has_free_messages(part.features):
            features = Features({**part.features, **{name: free[name] for name in TEXTS if name in part.column_names}})
            part = part.map(dict, batched=True, features=features, desc="Storing messages as JSON")
        for name in names:
            if name not in part.column_names:
                absent = None if name == "tools" else "{}"  # as read by TRL
                part = part.add_column(name, [absent] * len(part), feature=free[name])
        same.append(part)
    return same
