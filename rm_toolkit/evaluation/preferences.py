"""A test set independent of the model: its distinct texts, which of them beats which, and the tags of each pair."""

from __future__ import annotations

import functools
import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..batches.preference_rows import PreferenceRow, as_margins, as_row, check_columns, text_key
from ..data.messages import Conversation, canonical, content_text, null_stripper
from ..data.records import RowPlace
from ..data.schema import Text
from ..data.templates import prompt_digest
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
        better (`np.ndarray` of shape `(num_pairs,)`): Index of the preferred text of each pair.
        worse (`np.ndarray` of shape `(num_pairs,)`): Index of the text it is preferred to.
        prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt; pairs of one prompt share it.
        tags (`dict[str, np.ndarray]`): For each tag of the data, its value for each pair, or `None`.
        num_rows (`int`): Rows of the dataset.
        num_label_ties (`int`): Pairs of responses with equal scores; not among the pairs here.
        margin (`np.ndarray` of shape `(num_pairs,)`, *optional*): Wanted difference of the rewards.
        first_two (`np.ndarray` of shape `(num_rows_with_a_best, 2)`): The two best-scored texts of each row whose scores
            differ, better first.
        distinct (`np.ndarray`): Indices of the texts that a model can distinguish: texts may differ only in where the
            prompt ends and the completion begins.
        template (`list[dict]`, *optional*): `tools` and `chat_template_kwargs` of each distinct text, if any has them.
        prompt_ids (`list[str]`, *optional*): The `prompt_id` of each prompt, by its number.
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
    margin: np.ndarray | None = None
    first_two: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    distinct: np.ndarray | None = None
    template: list[dict[str, Any]] | None = None
    prompt_ids: list[str] | None = None

    def __post_init__(self) -> None:
        if self.distinct is None:
            self.distinct = np.arange(len(self.completions))

    def __len__(self) -> int:
        return len(self.better)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """What a chat template reads besides the messages, for each distinct text; empty if no text has any."""
        names = self.template[0] if self.template else ()
        return {name: [own[name] for own in self.template or ()] for name in names}

    @property
    def texts(self) -> list[Conversation]:
        """Each distinct text, with what the chat template reads besides its messages."""
        template = self.template or [{}] * len(self.prompts)
        return [Conversation(p, c, **own) for p, c, own in zip(self.prompts, self.completions, template)]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Characters of each completion, `np.ndarray` of shape `(num_texts,)`."""
        return np.array([text_length(completion) for completion in self.completions], dtype=np.int64)

    def fingerprint(self) -> str:
        """Returns a hash of texts and preferences, 16 hex digits: the same rows give the same hash on every machine."""
        template = None if self.template is None else iter(self.template)
        return preference_digest(zip(self.prompts, self.completions), template, self.better, self.worse)


def preference_digest(
    texts: Iterable[tuple[Text, Text]],
    template: Iterable[dict[str, Any]] | None,
    better: np.ndarray,
    worse: np.ndarray,
) -> str:
    """
    Hash of the texts and preferences of a test set, 16 hex digits.

    Args:
        texts (iterable of `(prompt, completion)`): The distinct texts, in order.
        template (iterable of `dict`, *optional*): What the chat template reads besides each, if any has it.
        better, worse (`np.ndarray` of shape `(num_pairs,)`): Indices of the texts of each pair.
    """
    digest = hashlib.sha256()
    for prompt, completion in texts:
        digest.update(json.dumps([prompt, completion], ensure_ascii=True).encode("ascii"))
    if template is not None:  # as the JSON of one list
        for number, own in enumerate(template):
            digest.update((", " if number else "[").encode("ascii") + canonical(own).encode("ascii"))
        digest.update(b"]")
    for numbers in (better, worse):
        digest.update(numbers.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def text_length(text: Text) -> int:
    """Characters of a text; for a chat, of its messages."""
    return len(text) if isinstance(text, str) else sum(len(content_text(message)) for message in text)


def read_preferences(dataset: Dataset, name: str) -> PreferencePairs:
    """
    Lists the pairs of a dataset, the same pairs as in training, in the order of the file.

    Args:
        dataset (`datasets.Dataset`): Pairs or ranked rows, with or without tags.
        name (`str`): Name of the test set.

    Raises:
        `InputError`: if the columns are not those of a preference dataset, a row cannot be used, or there is no pair.
    """
    found = collect_pairs(dataset, name, NamedPrompts())
    better, worse, prompt = (np.array(column, dtype=np.int64) for column in (found.better, found.worse, found.prompt))
    return PreferencePairs(
        name,
        [prompt for prompt, _, _ in found.texts],
        [completion for _, completion, _ in found.texts],
        better,
        worse,
        prompt,
        found.tag_columns(),
        len(dataset),
        found.label_ties,
        as_margins(found.margins),
        np.array(found.first_two, dtype=np.int64).reshape(-1, 2),
        np.array(list(found.distinct.values()), dtype=np.int64),
        [own for _, _, own in found.texts] if any(any(own.values()) for _, _, own in found.texts) else None,
        found.prompt_ids,
    )


def rows_of(dataset: Dataset, name: str) -> Iterator[tuple[PreferenceRow, dict[str, Any]]]:
    """Yields each row of a test set as training reads it, and its stored columns."""
    ranked = check_columns(dataset.column_names, name, "test set")
    strip = null_stripper(dataset.features)
    for number, values in enumerate(dataset):
        place = RowPlace(f"test set '{name}'", "row", number + 1)
        yield as_row(strip(values) if strip else values, ranked, place), values


class CollectedPairs:
    """Texts, pairs and tags, collected row by row."""

    def __init__(self):
        self.texts: list[tuple[Text, Text, dict[str, Any]]] = []
        self.better, self.worse, self.prompt = array("q"), array("q"), array("q")
        self.tags: dict[str, list[str | None]] = {tag: [] for tag in TAGS}
        self.margins: list[float | None] = []
        self.first_two: list[tuple[int, int]] = []
        self.distinct: dict[Any, int] = {}
        self.label_ties = 0
        self._numbers: dict[str, int] = {}
        self._clusters: dict[Any, int] = {}
        self._values: dict[str | None, str | None] = {}

    def add(self, row: PreferenceRow, number: int, values: Mapping[str, Any]) -> None:
        """Adds the pairs of one row, whose stored columns are `values`."""
        source = values.get("source")
        template = {"tools": row.tools, "chat_template_kwargs": row.chat_template_kwargs}
        members = [self.number_text(row.prompt, completion, template) for completion in row.completions]
        # A row without a prompt forms its own cluster.
        cluster = self.number_prompt(number if row.prompt_key is None else row.prompt_key)
        stated = row.pair_up()
        self.label_ties += len(stated.ties)
        if stated.first_two is not None:
            self.first_two.append(tuple(members[k] for k in stated.first_two))
        for better, worse in stated.pairs:
            self.better.append(members[better])
            self.worse.append(members[worse])
            self.prompt.append(cluster)
            self.margins.append(row.margin)
            for tag, value in zip(TAGS, (row.domain, source, row.writers[worse] if row.writers else None)):
                value = None if value is None else str(value)  # rows given from Python may have numbers
                self.tags[tag].append(self._values.setdefault(value, value))  # one string for all pairs

    def number_text(self, prompt: Text, completion: Text, template: dict[str, Any]) -> int:
        """Returns the index of a text; equal texts share it."""
        key = text_identity(prompt, completion, template)
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.distinct.setdefault(text_key(prompt, completion, **template), len(self.texts))
            self.texts.append((prompt, completion, template))
        return self._numbers[key]

    def number_prompt(self, key: Any) -> int:
        """Returns the number of the prompt that a row belongs to."""
        return self._clusters.setdefault(key, len(self._clusters))

    def tag_columns(self) -> dict[str, np.ndarray]:
        """Returns the value of each pair for every tag of the data."""
        return {tag: np.array(values, dtype=object) for tag, values in self.tags.items() if any(values)}


class NamedPrompts(CollectedPairs):
    """Keeps the `prompt_id` of each prompt, by its number."""

    def __init__(self):
        super().__init__()
        self.prompt_ids: list[str] = []

    def add(self, row: PreferenceRow, number: int, values: Mapping[str, Any]) -> None:
        super().add(row, number, values)
        if len(self.prompt_ids) < len(self._clusters):
            given = values.get("prompt_id")
            digest = None if given else prompt_digest(row.prompt, row.completions, row.tools, row.chat_template_kwargs)
            self.prompt_ids.append(str(given or digest))


Collected = TypeVar("Collected", bound=CollectedPairs)


def collect_pairs(dataset: Dataset, name: str, found: Collected) -> Collected:
    """
    Adds the pairs of all rows of a test set to `found`, and returns it.

    Raises:
        `InputError`: as in [`read_preferences`].
    """
    for number, (row, values) in enumerate(rows_of(dataset, name)):
        found.add(row, number, values)
    if not found.better:
        raise InputError(
            f"test set '{name}' has {len(dataset)} rows but not one pair with a preference ({found.label_ties} ties). "
            "Check its scores, or leave it out."
        )
    return found


def text_identity(prompt: Text, completion: Text, template: dict[str, Any]) -> str:
    """A key that equal texts share and others do not: JSON of their content."""
    text = [prompt, completion]
    return canonical([text, template] if any(template.values()) else text)


def tag_values(pairs: PreferencePairs) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields `(tag, value, pairs that have it)` for every value of every tag, in alphabetical order."""
    for tag, values in pairs.tags.items():
        members: dict[str, list[int]] = {}
        for number, value in enumerate(values):
            if value:
                members.setdefault(value, []).append(number)
        for value in sorted(members):
            yield tag, value, np.array(members[value], dtype=np.int64)
