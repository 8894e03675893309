"""
Pairs whose label a reward model contradicts: which ones count, and how they are listed for a person to review.

The rule is that of confident learning for two classes that mirror each other ("the first is better" and "the second is
better" of the same two texts): a label is doubted if the model gives the other order at least the probability that it
gives, on average, to the order that the label states.
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
    Probability that a model gives the order that each label states.

    Args:
        margins (`np.ndarray` of shape `(num_pairs,)`): Reward of the chosen minus that of the rejected response, in
            logits, by a model that has not seen the pair.
    """
    return expit(np.asarray(margins, dtype=np.float64))


def confident_threshold(p: np.ndarray) -> float:
    """
    The p up to which a label is doubted: 1 - mean(p), and never a p at which the model leans to the label.

    Args:
        p (`np.ndarray` of shape `(num_pairs,)`): From [`probability_of_label`].

    References:
        - Confident learning: https://huggingface.co/papers/1911.00068, Eq. 2
    """
    return min(1.0 - float(np.mean(p)), 0.5)


def doubted(p: np.ndarray, threshold: float) -> np.ndarray:
    """
    Returns the numbers of the doubted pairs, the most contradicted first; equal ones in the order of the data.

    Args:
        p (`np.ndarray` of shape `(num_pairs,)`): From [`probability_of_label`].
        threshold (`float`): Up to which p a label is doubted. At 0.5 the model is undecided: that contradicts nothing.
    """
    order = np.argsort(p, kind="stable")
    return order[(p[order] <= threshold) & (p[order] < 0.5)]


def describe_pairs(
    pairs: PreferencePairs, numbers: Iterable[int], margins: np.ndarray, p: np.ndarray, **same: Any
) -> Iterator[dict[str, Any]]:
    """
    Yields one row for each pair of a list: what it is, how much it is contradicted, and its texts.

    Args:
        pairs (`PreferencePairs`): The data set.
        numbers (`Iterable[int]`): Its pairs, in the order of the list.
        margins, p (`np.ndarray` of shape `(num_pairs,)`): Of all of its pairs.
        **same: Columns that stand first, with the same value in every row.
    """
    for number in map(int, numbers):
        yield {**same, **identify(pairs, number), "margin": float(margins[number]), "p": float(p[number])} | texts_of(
            pairs, number
        )


def identify(pairs: PreferencePairs, number: int) -> dict[str, Any]:
    """
    Returns what names one pair: the ids of the pair, its prompt and its two texts, the names of its set and its tags.

    Args:
        pairs (`PreferencePairs`): The data set.
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
    Returns `prompt`, `chosen`, `rejected` and what the chat template reads beside them, of one pair.

    Args:
        pairs (`PreferencePairs`): The data set.
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
    Yields a row for each of the pairs of every test set that each model contradicts most, the worst first.

    Args:
        tables (`dict[str, dict[str, PreferencePairs]]`): For each model its test sets.
        rewards (`dict[str, dict[str, np.ndarray]]`): For each model and test set, the reward of each distinct text.
        number (`int`): Pairs of each model and set, or fewer where it contradicts fewer.
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
