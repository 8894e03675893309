"""Words that distinguish groups of texts: weighted log-odds-ratio with an informative Dirichlet prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


# At least two letters; may include an apostrophe.
WORD = r"(?u)\b[^\W\d_](?:['’]?[^\W\d_])+\b"
# Exceeded by chance for one word in twenty, above or below.
LEAST_SCORE = 1.96


@dataclass(frozen=True)
class DistinctiveWord:
    """
    A word and its evidence.

    Args:
        word (`str`): In lower case.
        score (`float`): z-score of the log-odds ratio of the group against all other groups.
        texts (`int`): Texts of the group with the word.
        other_texts (`int`): Texts of the other groups with the word.
    """

    word: str
    score: float
    texts: int
    other_texts: int


def distinctive_words(
    groups: dict[str, Sequence[str]], *, most: int = 40, min_texts: int = 3
) -> dict[str, list[DistinctiveWord]]:
    """
    Finds the words that distinguish each group of texts from all others.

    A word counts once per text: a name in a single story does not characterize the group. English stop
    words are left out (scikit-learn's list); other languages keep theirs.

    Args:
        groups (`dict[str, Sequence[str]]`): Texts of each group, at least two groups.
        most (`int`): Most words per group; only those with a score above 1.96.
        min_texts (`int`): Smallest number of texts with the word.

    Returns:
        `dict[str, list[DistinctiveWord]]`: For each group, highest score first.
    """
    words = WordCounts(len(groups))
    for number, texts in enumerate(groups.values()):
        belongs = np.zeros((len(groups), len(texts)), dtype=bool)
        belongs[number] = True
        words.add(texts, belongs)
    return words.distinctive(list(groups), most=most, min_texts=min_texts)


class WordCounts:
    """
    Counts the texts of each group with each word, incrementally; see [`distinctive_words`].

    Args:
        num_groups (`int`): Number of groups.
    """

    def __init__(self, num_groups: int):
        from sklearn.feature_extraction.text import CountVectorizer

        self._words_of = CountVectorizer(token_pattern=WORD, stop_words="english").build_analyzer()
        self._numbers: dict[str, int] = {}
        self._counts = np.zeros((num_groups, 0), dtype=np.int64)

    def add(self, texts: Sequence[str], belongs: np.ndarray) -> None:
        """
        Counts some texts.

        Args:
            texts (list of `str`): The texts.
            belongs (`np.ndarray` of shape `(num_groups, len(texts))`): Whether each group has each text.
        """
        numbers = self._numbers
        found = [
            [numbers.setdefault(word, len(numbers)) for word in set(self._words_of(text))] if used else []
            for text, used in zip(texts, belongs.any(axis=0))
        ]
        said = np.array([number for own in found for number in own], dtype=np.int64)
        text = np.repeat(np.arange(len(found)), [len(own) for own in found])
        if len(numbers) > self._counts.shape[1]:
            room = max(len(numbers), 2 * self._counts.shape[1])
            self._counts = np.pad(self._counts, ((0, 0), (0, room - self._counts.shape[1])))
        for counts, own in zip(self._counts, belongs):
            counts += np.bincount(said[own[text]], minlength=len(counts))

    def distinctive(
        self, names: Sequence[str], *, most: int = 40, min_texts: int = 3
    ) -> dict[str, list[DistinctiveWord]]:
        """
        Returns the words of each group, as [`distinctive_words`] does.

        Args:
            names (list of `str`): Names of the groups.
            most, min_texts (`int`): As there.
        """
        if not self._numbers:  # only stop words
            return {name: [] for name in names}
        vocabulary = sorted(self._numbers)
        counts = self._counts[:, [self._numbers[word] for word in vocabulary]]
        common = np.flatnonzero(counts.sum(axis=0) >= min_texts)
        scores = log_odds(counts)
        others = counts.sum(axis=0) - counts
        found: dict[str, list[DistinctiveWord]] = {}
        for row, name in enumerate(names):
            order = common[np.lexsort((common, -scores[row, common]))]
            found[name] = [
                DistinctiveWord(vocabulary[k], float(scores[row, k]), int(counts[row, k]), int(others[row, k]))
                for k in order[:most]
                if scores[row, k] > LEAST_SCORE
            ]
        return found


def log_odds(counts: np.ndarray) -> np.ndarray:
    """
    z-scores of the log-odds ratio of each word in each group against all other groups.

    The prior has the shape of the whole corpus and the size of the average group: until its own
    words weigh more, a group counts as using each word as often as all groups do.

    Args:
        counts (`np.ndarray` of shape `(num_groups, num_words)`): How often each group uses each word; every word is
            used.

    Returns:
        `np.ndarray` of shape `(num_groups, num_words)`: Above 0 if a group uses a word more often than the others.

    References:
        - Monroe, Colaresi and Quinn (2008), "Fightin' Words", Political Analysis 16(4), section 3.5.1
    """
    counts = counts.astype(np.float64)
    corpus = counts.sum(axis=0)
    prior = corpus / len(counts)
    own = counts + prior
    other = corpus - counts + prior
    own_rest = own.sum(axis=1, keepdims=True) - own
    other_rest = other.sum(axis=1, keepdims=True) - other
    difference = np.log(own / own_rest) - np.log(other / other_rest)
    return difference / np.sqrt(1 / own + 1 / other)
