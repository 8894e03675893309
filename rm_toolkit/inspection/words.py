"""Words that tell groups of texts apart: weighted log-odds-ratio with an informative Dirichlet prior."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


# At least two letters; an apostrophe may stand among them.
WORD = r"(?u)\b[^\W\d_](?:['’]?[^\W\d_])+\b"
# What chance exceeds for one word in twenty, above or below.
LEAST_SCORE = 1.96


@dataclass(frozen=True)
class DistinctiveWord:
    """
    A word and what speaks for it.

    Args:
        word (`str`): In lower case.
        score (`float`): z-score of the log-odds ratio of the group against all other groups.
        texts (`int`): Texts of the group that say it.
        other_texts (`int`): Texts of the other groups that say it.
    """

    word: str
    score: float
    texts: int
    other_texts: int


def distinctive_words(
    groups: dict[str, Sequence[str]], *, most: int = 40, min_texts: int = 3
) -> dict[str, list[DistinctiveWord]]:
    """
    Finds the words that set each group of texts apart from all the others.

    A text counts a word once, however often it says it: a name in a single story is no mark of the group. English stop
    words are left out (scikit-learn's list); other languages keep theirs.

    Args:
        groups (`dict[str, Sequence[str]]`): Texts of each group, at least two groups.
        most (`int`): Words of each group at most; only such with a score above 1.96.
        min_texts (`int`): A word must stand in at least so many texts.

    Returns:
        `dict[str, list[DistinctiveWord]]`: For each group, highest score first.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(token_pattern=WORD, stop_words="english", binary=True)
    texts = [text for group in groups.values() for text in group]
    try:
        table = vectorizer.fit_transform(texts)
    except ValueError:  # "empty vocabulary": nothing but stop words
        return {name: [] for name in groups}
    common = np.flatnonzero(np.asarray((table > 0).sum(axis=0)).ravel() >= min_texts)
    vocabulary = vectorizer.get_feature_names_out()
    ends = np.cumsum([0, *(len(group) for group in groups.values())])
    counts = np.stack([np.asarray(table[a:b].sum(axis=0)).ravel() for a, b in itertools.pairwise(ends)])
    scores = log_odds(counts)
    others = counts.sum(axis=0) - counts
    found: dict[str, list[DistinctiveWord]] = {}
    for row, name in enumerate(groups):
        order = common[np.lexsort((common, -scores[row, common]))]
        found[name] = [
            DistinctiveWord(str(vocabulary[k]), float(scores[row, k]), int(counts[row, k]), int(others[row, k]))
            for k in order[:most]
            if scores[row, k] > LEAST_SCORE
        ]
    return found


def log_odds(counts: np.ndarray) -> np.ndarray:
    """
    z-scores of the log-odds ratio of each word in each group against all other groups.

    The prior has the shape of the whole corpus and the size of the average group: until its own words weigh more, a group
    counts as saying each word as often as all groups do.

    Args:
        counts (`np.ndarray` of shape `(num_groups, num_words)`): How often each group says each word; every word is said.

    Returns:
        `np.ndarray` of shape `(num_groups, num_words)`: Above 0 where a group says a word more often than the others.

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
