"""The pairs of a dataset of any size: its texts stay on disk and are counted as they are read."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.messages import Conversation
from ..data.schema import Text
from ..evaluation.preferences import CollectedPairs, collect_pairs, preference_digest, rows_of, text_identity


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Contents:
    """
    The pairs of a dataset; its distinct texts are numbered in order of first occurrence.

    Args:
        dataset (`datasets.Dataset`): The dataset; texts are read from it each time.
        name (`str`): Its name in errors.
        better (`np.ndarray` of shape `(num_pairs,)`): Index of the preferred text of each pair.
        worse (`np.ndarray` of shape `(num_pairs,)`): Index of the other text of each pair.
        tags (`dict[str, np.ndarray]`): For each tag of the data, its value for each pair.
        place (`np.ndarray` of shape `(num_texts,)`): Index of each text among all responses of the dataset.
        has_template (`bool`): Whether a chat template reads anything besides the messages.
    """

    dataset: Dataset
    name: str
    better: np.ndarray
    worse: np.ndarray
    tags: dict[str, np.ndarray]
    place: np.ndarray
    has_template: bool

    def __len__(self) -> int:
        return len(self.place)

    def texts(self) -> Iterator[Conversation]:
        """Yields the distinct texts, read from disk row by row."""
        places = iter(self.place.tolist())
        wanted, place = next(places, None), 0
        for row, _ in rows_of(self.dataset, self.name):
            for completion in row.completions:
                if place == wanted:
                    yield Conversation(row.prompt, completion, row.tools, row.chat_template_kwargs)
                    wanted = next(places, None)
                place += 1

    def batches(self, size: int) -> Iterator[list[Conversation]]:
        """Yields the distinct texts, `size` at a time."""
        texts = self.texts()
        while batch := list(islice(texts, size)):
            yield batch

    def fingerprint(self) -> str:
        """As in [`~rm_toolkit.evaluation.preferences.PreferencePairs`]."""
        template = (_template(text) for text in self.texts()) if self.has_template else None
        return preference_digest((text[:2] for text in self.texts()), template, self.better, self.worse)

    def groups(self) -> dict[str, np.ndarray]:
        """
        Groups the texts by their domain; if that is not known, into chosen and rejected ones.

        Returns:
            `dict[str, np.ndarray]`: Numbers of the distinct texts of each group, in ascending order; domains in
            alphabetical order. A text that is preferred in one pair and not in another is in both groups.
        """
        if "rejected_domain" not in self.tags:
            return {"chosen": np.unique(self.better), "rejected": np.unique(self.worse)}
        sides = ((self.better, "domain"), (self.worse, "rejected_domain"))
        domains = sorted({value for _, tag in sides for value in self.tags.get(tag, ()) if value})
        return {
            domain: np.unique(np.concatenate([side[self.tags[tag] == domain] for side, tag in sides]))
            for domain in domains
        }


def read_contents(dataset: Dataset, name: str) -> Contents:
    """
    Lists the pairs of a dataset as [`~rm_toolkit.evaluation.preferences.read_preferences`] does, without its texts.

    Raises:
        `InputError`: as there.
    """
    found = collect_pairs(dataset, name, _Occurrences())
    _, first, number = np.unique(np.array(found.digests), return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    number = rank[number]
    better, worse = (number[np.array(side, dtype=np.int64)] for side in (found.better, found.worse))
    return Contents(dataset, name, better, worse, found.tag_columns(), np.sort(first), found.has_template)


def digest_of(text: str) -> int:
    """
    A 64-bit hash of a text, as in cleaning: among ten million texts, the chance of a collision is 3 in a million.
    """
    whole = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "little", signed=True)


def _template(text: Conversation) -> dict[str, Any]:
    return {"tools": text.tools, "chat_template_kwargs": text.chat_template_kwargs}


class _Occurrences(CollectedPairs):
    """Numbers every response, equal or not, and keeps a digest of each; prompts do not matter here."""

    def __init__(self):
        super().__init__()
        self.digests = array("q")
        self.has_template = False

    def number_text(self, prompt: Text, completion: Text, template: dict[str, Any]) -> int:
        self.has_template = self.has_template or any(template.values())
        self.digests.append(digest_of(text_identity(prompt, completion, template)))
        return len(self.digests) - 1

    def number_prompt(self, key: Any) -> int:
        return 0
