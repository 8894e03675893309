"""Lengths and words of the texts of a dataset, counted batch by batch."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from ..batches.encoding import BATCH_SIZE
from ..data.messages import canonical, content_text
from ..data.schema import Text
from ..data.templates import normalize
from ..evaluation.preferences import text_length
from ..output.progress import no_bar
from .contents import Contents, digest_of
from .words import DistinctiveWord, WordCounts


# Length of each (prompt, completion); the second argument: whether to count them as a model reads them.
Count = Callable[[Sequence[tuple[Text, Text]], bool], np.ndarray]


@dataclass
class Measures:
    """
    Counts for the texts of a dataset.

    Args:
        lengths (`dict[str, np.ndarray]`): Lengths of `whole texts`, `prompts`, and the responses of each group.
        characters (`np.ndarray` of shape `(num_texts,)`): Characters of the completion of each distinct text.
        words (`dict[str, list[DistinctiveWord]]`): Distinctive words of each group, best first.
    """

    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    characters: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    words: dict[str, list[DistinctiveWord]] = field(default_factory=dict)


def measure(contents: Contents, count: Count, show_progress: bool) -> Measures:
    """
    Counts lengths and words in one pass over the texts.

    Args:
        contents (`Contents`): The dataset.
        count (`Callable`): Returns the length of each text; its second argument: whether they are whole texts.
        show_progress (`bool`): Whether to draw a progress bar.
    """
    groups = contents.groups()
    belongs = np.zeros((len(groups), len(contents)), dtype=bool)
    for own, members in zip(belongs, groups.values()):
        own[members] = True
    words = WordCounts(len(groups))
    prompts = _PromptLengths(count)
    whole, alone, characters = array("q"), array("q"), array("q")
    bar = tqdm(total=len(contents), desc="Reading", unit="text", disable=no_bar(show_progress), leave=False, delay=2)
    with bar:
        for batch in contents.batches(BATCH_SIZE):
            begin = len(whole)
            empty: Text = [] if isinstance(batch[0].completion, list) else ""
            whole.extend(count(batch, True).tolist())
            alone.extend(count([(empty, text.completion) for text in batch], False).tolist())
            characters.extend(text_length(text.completion) for text in batch)
            prompts.add([text.prompt for text in batch], empty)
            words.add([content(text.completion) for text in batch], belongs[:, begin : begin + len(batch)])
            bar.update(len(batch))
    alone_lengths, prompt_lengths = np.array(alone, dtype=np.int64), prompts.lengths()
    lengths = {"whole texts": np.array(whole, dtype=np.int64)}
    if len(prompt_lengths):
        lengths["prompts"] = prompt_lengths
    lengths |= {f"{name} responses": alone_lengths[members] for name, members in groups.items()}
    return Measures(lengths, np.array(characters, dtype=np.int64), words.distinctive(list(groups)))


def completion_characters(contents: Contents) -> np.ndarray:
    """Characters of the completion of each distinct text, `np.ndarray` of shape `(num_texts,)`."""
    return np.fromiter((text_length(text.completion) for text in contents.texts()), dtype=np.int64)


def text_digests(contents: Contents) -> np.ndarray:
    """A 64-bit hash of each distinct text, up to white space: prompt, completion and other inputs of the template."""
    digests = (
        digest_of(f"{normalize(p)}\n{normalize(c)}" + "".join(canonical(t) for t in more if t))
        for p, c, *more in contents.texts()
    )
    return np.unique(np.fromiter(digests, dtype=np.int64))


class _PromptLengths:
    """Lengths of the prompts that differ in more than white space; the last of equal ones counts."""

    def __init__(self, count: Count):
        self.count = count
        self.digests, self.counted = array("q"), array("q")
        self.last: Text | None = None

    def add(self, prompts: list[Text], empty: Text) -> None:
        """Counts the prompts of a batch; consecutive equal prompts count once."""
        new = []
        for prompt in prompts:
            if prompt and prompt != self.last:
                new.append(prompt)
            self.last = prompt
        if new:
            self.digests.extend(digest_of(normalize(prompt)) for prompt in new)
            self.counted.extend(self.count([(prompt, empty) for prompt in new], False).tolist())

    def lengths(self) -> np.ndarray:
        digests, counted = (np.array(column, dtype=np.int64)[::-1] for column in (self.digests, self.counted))
        return counted[np.unique(digests, return_index=True)[1]]


def content(text: Text) -> str:
    """A string as it is; for messages, their contents."""
    return text if isinstance(text, str) else "\n".join(content_text(message) for message in text)
