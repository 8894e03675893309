"""
The one rule that turns the responses of a row into pairs and counts its ties.

- `chosen` and `rejected` are the label. Scores with them may say how much better, but not contradict them: a row whose
  `score_chosen` is below its `score_rejected` is refused; a row without scores has 1 and 0.
- Every two responses with different scores are a pair; two with equal scores are a label tie, which is not a pair.
- Where one domain's response was compared with those of its rivals, the rivals were not compared with each other:
  their equal scores are not ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from .records import Place
from .schema import check_ranked, number_value


class RowPairs(NamedTuple):
    """
    The preferences in the scores of one row, as positions in the list of its responses.

    Args:
        pairs (`list[tuple[int, int]]`): (better, worse) of every two responses with different scores, in file order.
        ties (`list[tuple[int, int]]`): Label ties: every two that were compared and have equal scores, in file order.
        order (`list[int]`): Responses by score, best first; equal scores in reverse file order, as in the original
            work (it reverses an ascending sort).
        first_two (`tuple[int, int]`, *optional*): The two best-scored responses, if their scores differ.
    """

    pairs: list[tuple[int, int]]
    ties: list[tuple[int, int]]
    order: list[int]
    first_two: tuple[int, int] | None

    def best_first(self) -> list[tuple[int, int]]:
        """Returns the pairs, sorted by the position of the better response in `order`, then of the worse one."""
        if len(self.pairs) < 2:
            return self.pairs
        place = {response: position for position, response in enumerate(self.order)}
        return sorted(self.pairs, key=lambda pair: (place[pair[0]], place[pair[1]]))


def pair_up(scores: Sequence[float], writers: Sequence[str] | None = None, domain: str | None = None) -> RowPairs:
    """
    Finds the pairs and the ties of one row.

    Args:
        scores (`Sequence[float]` of K): Finite; higher is better.
        writers (`Sequence[str]` of K, *optional*): The domain of each response, if one domain was compared with
            its rivals.
        domain (`str`, *optional*): That domain; the others are rivals.
    """
    pairs, ties = [], []
    for (i, one), (j, other) in combinations(enumerate(scores), 2):
        if one != other:
            pairs.append((i, j) if one > other else (j, i))
        elif writers is None or domain in (writers[i], writers[j]):
            ties.append((i, j))
    order = sorted(range(len(scores)), key=scores.__getitem__)
    order.reverse()
    differ = len(order) > 1 and scores[order[0]] != scores[order[1]]
    return RowPairs(pairs, ties, order, (order[0], order[1]) if differ else None)


def label_scores(chosen: Any, rejected: Any, place: Place) -> list[float]:
    """
    Returns the scores of (chosen, rejected): 1 and 0 if the row has neither.

    Args:
        chosen, rejected (`float`, *optional*): `score_chosen` and `score_rejected` of the row.
        place (`Place`): Place of the row, for the error.

    Raises:
        `InputError`: if one of the two is missing or not finite, or they contradict the label.
    """
    if chosen is None and rejected is None:
        return [1.0, 0.0]
    scores = [
        number_value(plain(value), name, place)
        for value, name in ((chosen, "score_chosen"), (rejected, "score_rejected"))
    ]
    if scores[0] < scores[1]:
        raise place.error(
            f"`score_chosen` ({scores[0]:g}) is below `score_rejected` ({scores[1]:g}); the labels contradict the scores."
        )
    return scores


def ranked_scores(completions: Any, scores: Any, place: Place) -> list[float]:
    """
    Returns the scores of a ranked row.

    Args:
        completions, scores: Columns of the row.
        place (`Place`): Place of the row, for the error.

    Raises:
        `InputError`: unless they are two lists of the same length, at least 2, and every score is finite.
    """
    scores = plain(scores)
    check_ranked(plain(completions), scores, ("completions", "scores"), place)
    return [number_value(score, f"scores[{k}]", place) for k, score in enumerate(scores)]


def plain(value: Any) -> Any:
    """Converts an array or a tensor to Python numbers and lists; returns anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value
