"""A test set as every model sees it: its distinct texts, which of them beats which, and the tags of each pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.messages import check_template_columns
from ..data.schema import Text
from ..errors import InputError


if TYPE_CHECKING:
    from datasets import Dataset


TAGS = ("domain", "source", "rejected_domain")


@dataclass
class PreferencePairs:
    """
    The pairs of one test set, independent of any tokenizer.

    Args:
        name (`str`): Name of the test set.
        prompts (`list`): Prompt of each distinct text, a string or a list of messages.
        completions (`list`): Completion of each distinct text.
        better (`np.ndarray` of shape `(num_pairs,)`): Text that is preferred in each pair.
        worse (`np.ndarray` of shape `(num_pairs,)`): Text that it is preferred to.
        prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt; pairs of one prompt share it.
        tags (`dict[str, np.ndarray]`): For each tag that the data has, its value for each pair, `None` where it has none.
        num_rows (`int`): Rows of the data set.
        num_label_ties (`int`): Pairs of responses with equal scores; they are in no pair.
    """

    name: str
    prompts: list[Text]
    completions: list[Text]
    better: np.ndarray
    worse: np.ndarray
    prompt: np.ndarray
    tags: dict[str, np.ndarray] = field(default_factory=dict)
    num_rows: int = 0
    num_label_ties: int = 0

    def __len__(self) -> int:
        return len(self.better)

    @property
    def lengths(self) -> np.ndarray:
        """Characters of each completion, `np.ndarray` of shape `(num_texts,)`."""
        return np.array([text_length(completion) for completion in self.completions], dtype=np.int64)

    def fingerprint(self) -> str:
        """Returns 16 hex digits over texts and preferences: the same rows have the same one on every machine."""
        digest = hashlib.sha256()
        for prompt, completion in zip(self.prompts, self.completions):
            digest.update(json.dumps([prompt, completion], ensure_ascii=True).encode("ascii"))
        for numbers in (self.better, self.worse):
            digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def text_length(text: Text) -> int:
    """Characters of a text; of a chat those of its messages."""
    return len(text) if isinstance(text, str) else sum(len(message["content"]) for message in text)


def read_preferences(dataset: Dataset, name: str) -> PreferencePairs:
    """
    Lists the pairs of a data set: every two responses to a prompt whose scores differ, as evaluation in training does.

    Args:
        dataset (`datasets.Dataset`): Pairs or ranked rows, with or without tags.
        name (`str`): Name of the test set.

    Raises:
        `InputError`: if the columns are not those of a preference data set, or no pair is in it.
    """
    columns = set(dataset.column_names)
    if not ({"completions", "scores"} <= columns or {"chosen", "rejected"} <= columns):
        raise InputError(
            f"test set '{name}' has the columns {sorted(columns)}; a preference data set has `chosen` and `rejected`, or "
            "`completions` and `scores`. Build one with `rm-toolkit build-data`."
        )
    found = _Collected()
    for number, row in enumerate(dataset):
        found.add(row, number)
    if not found.pairs:
        raise InputError(
            f"test set '{name}' has {len(dataset)} rows but not one pair with a preference ({found.label_ties} ties). "
            "Check its scores, or leave it out."
        )
    better, worse, prompt = np.array(found.pairs, dtype=np.int64).T
    return PreferencePairs(
        name,
        [prompt for prompt, _ in found.texts],
        [completion for _, completion in found.texts],
        better,
        worse,
        prompt,
        {tag: np.array(values, dtype=object) for tag, values in found.tags.items() if any(values)},
        len(dataset),
        found.label_ties,
    )


class _Collected:
    """Texts, pairs and tags as the rows come in."""

    def __init__(self):
        self.texts: list[tuple[Text, Text]] = []
        self.pairs: list[tuple[int, int, int]] = []
        self.tags: dict[str, list[str | None]] = {tag: [] for tag in TAGS}
        self.label_ties = 0
        self._numbers: dict[str, int] = {}
        self._clusters: dict[Any, int] = {}

    def add(self, row: dict[str, Any], number: int) -> None:
        """Adds the pairs of one row."""
        check_template_columns(row)
        prompt, completions, scores, writers = _responses(row)
        members = [self._number(prompt, completion) for completion in completions]
        # A row without a prompt is a cluster of its own.
        cluster = row.get("prompt_id") or (json.dumps(prompt) if prompt else number)
        cluster_number = self._clusters.setdefault(cluster, len(self._clusters))
        for i, j in combinations(range(len(members)), 2):
            if scores[i] == scores[j]:
                # Where one domain was compared with the rest, its rivals were not compared with each other: no ties.
                self.label_ties += writers is None
                continue
            better, worse = (i, j) if scores[i] > scores[j] else (j, i)
            self.pairs.append((members[better], members[worse], cluster_number))
            for tag in ("domain", "source"):
                self.tags[tag].append(row.get(tag))
            self.tags["rejected_domain"].append(writers[worse] if writers else None)

    def _number(self, prompt: Text, completion: Text) -> int:
        key = json.dumps([prompt, completion])
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.texts.append((prompt, completion))
        return self._numbers[key]


def tag_values(pairs: PreferencePairs) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields `(tag, value, pairs that have it)` for every value of every tag, in alphabetical order."""
    for tag, values in pairs.tags.items():
        for value in sorted({value for value in values if value}):
            yield tag, value, np.flatnonzero(values == value)


def _responses(row: dict[str, Any]) -> tuple[Text, list[Text], list[float], list[str] | None]:
    """Prompt, completions, scores and who wrote each completion, of a pair or a ranked row."""
    if "completions" in row:
        completions, scores, writers = row["completions"], row["scores"], row.get("completion_domains")
    else:
        completions, scores = [row["chosen"], row["rejected"]], [1.0, 0.0]
        writers = [row.get("domain"), row["rejected_domain"]] if row.get("rejected_domain") else None
    prompt = row.get("prompt")
    if prompt is None:
        prompt = [] if isinstance(completions[0], list) else ""
    return prompt, completions, scores, writers
