"""An evaluation with rewards from a rule, to try its page without a model."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset

from rm_toolkit.evaluation.evaluator import Evaluation, _accuracy_matrix, _head
from rm_toolkit.evaluation.intervals import Bootstrap
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.evaluation.summary import compare, summarize


DESCRIBED = {
    "path": None,
    "architecture": "LlamaForSequenceClassification",
    "num_parameters": 1234,
    "revision": None,
    "pooling_type": "last",
    "max_length": 48,
    "stage": "grft",
    "domain": None,
}


def made_evaluation(sets, rewards, cut=lambda text: False):
    """
    The result of `evaluate` with these rewards.

    Args:
        sets: Rows by name of the set.
        rewards: By name of the model, a function of the set's name and a text's number that returns a reward.
        cut: Function that says whether a text lost its beginning.
    """
    bootstrap = Bootstrap(resamples=20, seed=0)
    found = Evaluation(_head(torch.device("cpu"), bootstrap))
    found.pairs = {name: read_preferences(Dataset.from_list(rows), name) for name, rows in sets.items()}
    metrics = found.metrics
    for model, reward in rewards.items():
        found.tables[model], found.rewards[model], found.cut[model] = found.pairs, {}, {}
        metrics["results"][model] = {}
        formats = {isinstance(t, list) for table in found.pairs.values() for t in table.completions}
        metrics["models"][model] = {**DESCRIBED, "data_format": "chat" if True in formats else "text"}
        for name, table in found.pairs.items():
            numbers = range(len(table.completions))
            found.rewards[model][name] = np.array([float(reward(name, k)) for k in numbers])
            found.cut[model][name] = np.array([bool(cut(text)) for text in table.completions])
            metrics["results"][model][name] = {
                **summarize(table, found.rewards[model][name], bootstrap),
                "num_truncated": int(found.cut[model][name].sum()),
            }
    for name, table in found.pairs.items():
        metrics["datasets"][name] = {
            "fingerprint": table.fingerprint(),
            "num_rows": table.num_rows,
            "num_pairs": len(table),
            "num_prompts": len(np.unique(table.prompt)),
            "num_texts": len(table.completions),
            "num_label_ties": table.num_label_ties,
            "domains": sorted({value for value in table.tags.get("domain", []) if value}),
        }
    first, *others = rewards
    metrics["accuracy_matrix"] = _accuracy_matrix(metrics["results"])
    metrics["differences"] = [
        {"first": first, "second": other, "dataset": name, **compare(*margins, table.prompt, bootstrap)}
        for other in others
        for name, table in found.pairs.items()
        for margins in [[margins_of(found, model, name) for model in (first, other)]]
    ]
    return found


def margins_of(found, model, name):
    table, rewards = found.pairs[name], found.rewards[model][name]
    return rewards[table.better] - rewards[table.worse]
