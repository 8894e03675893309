"""
Pairs whose label a reward model contradicts: the rule for doubting a label, and the list for a person to review.

The rule is confident learning for two mirrored classes ("the first is better" and "the second is better" of the same two
texts): a label is doubted if the model gives the opposite order at least the probability that it gives, on average, to
the labeled order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from ..data.pair_identity import pair_id, text_id
from .preferences import PreferencePairs


DOUBTS_NAME = "doubts.jsonl"


def probability_of_label(margins: np.ndarray) -> np.ndarray:
    """
    Probability that a model gives to the labeled order of each pair.

    Args:
        margins (`np.ndarray` of shape `(num_pairs,)`): Reward of the chosen minus that of the rejected response, in
            logits, by a model that has not seen the pair.
    """
    return expit(np.asarray(margins, dtype=np.float64))


def confident_threshold(p: np.ndarray) -> float:
    """
    The p up to which a label is doubted: 1 - mean(p), but never a p at which the model favors the label.

    Args:
        p (`np.ndarray` of shape `(num_pairs,)`): From [`probability_of_label`].

    References:
        - Confident learning: https://huggingface.co/papers/1911.00068, Eq. 2
    """
    return min(1.0 - float(np.mean(p)), 0.5)


def doubted(p: np.ndarray, threshold: float) -> np.ndarray:
    """
    Returns the indices of the doubted pairs, the most contradicted first; ties in the order of the data.

    Args:
        p (`np.ndarray` of shape `(num_pairs,)`): From [`probability_of_label`].
        threshold (`float`): The p up to which a label is doubted. At 0.5 the model is undecided, which is no
            contradiction.
    """
    order = np.argsort(p, kind="stable")
    return order[(p[order] <= threshold) & (p[order] < 0.5)]


def describe_pairs(
    pairs: PreferencePairs, numbers: Iterable[int], margins: np.ndarray, p: np.ndarray, **same: Any
) -> Iterator[dict[str, Any]]:
    """
    Yields one row for each listed pair: its ids, how much it is contradicted, and its texts.

    Args:
        pairs (`PreferencePairs`): The dataset.
        numbers (`Iterable[int]`): Indices of its pairs, in the order of the list.
        margins, p (`np.ndarray` of shape `(num_pairs,)`): Margin (logits) and probability of all pairs of the dataset.
        **same: Columns that come first, with the same value in every row.
    """
    for number in map(int, numbers):
        yield {**same, **identify(pairs, number), "margin": float(margins[number]), "p": float(p[number])} | texts_of(
            pairs, number
        )


def identify(pairs: PreferencePairs, number: int) -> dict[str, Any]:
    """
    Returns what identifies a pair: the ids of the pair, its prompt and its two texts, the name of its set and its tags.

    Args:
        pairs (`PreferencePairs`): The dataset.
        number (`int`): The pair.
    """
    own = texts_of(pairs, number)
    template = {name: own.get(name) for name in ("tools", "chat_template_kwargs")}
    return {
        "pair_id": pair_id(own["prompt"], own["chosen"], own["rejected"], **template),
        "dataset": pairs.name,
        "prompt_id": pairs.prompt_ids[pairs.prompt[number]] if pairs.prompt_ids is not None else None,
        "chosen_id": text_id(own["chosen"]),
        "rejected_id": text_id(own["rejected"]),
        **{tag: values[number] for tag, values in pairs.tags.items() if values[number] is not None},
    }


def texts_of(pairs: PreferencePairs, number: int) -> dict[str, Any]:
    """
    Returns `prompt`, `chosen` and `rejected` of one pair, and what else the chat template reads.

    Args:
        pairs (`PreferencePairs`): The dataset.
        number (`int`): The pair.
    """
    better, worse = pairs.better[number], pairs.worse[number]
    template = pairs.template[better] if pairs.template is not None else {}
    return {
        "prompt": pairs.prompts[better],
        "chosen": pairs.completions[better],
        "rejected": pairs.completions[worse],
        **{name: value for name, value in template.items() if value},
    }


def most_contradicted(
    tables: Mapping[str, Mapping[str, PreferencePairs]], rewards: Mapping[str, Mapping[str, np.ndarray]], number: int
) -> Iterator[dict[str, Any]]:
    """
    Yields one row for each of the pairs that each model contradicts most, per test set, the worst first.

    Args:
        tables (`dict[str, dict[str, PreferencePairs]]`): The test sets of each model.
        rewards (`dict[str, dict[str, np.ndarray]]`): For each model and test set, the reward of each distinct text, in
            logits.
        number (`int`): Most pairs to list per model and set.
    """
    for model, sets in rewards.items():
        for test, own in sets.items():
            table = tables[model][test]
            margins = own.astype(np.float64)[table.better] - own.astype(np.float64)[table.worse]
            p = probability_of_label(margins)
            yield from describe_pairs(table, doubted(p, 0.5)[:number], margins, p, model=model)


def list_text(rows: Iterable[dict[str, Any]]) -> str:
    """
    Returns a list of pairs as JSON Lines.

    Args:
        rows (iterable of `dict`): From [`describe_pairs`].
    """
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
