"""The pairs of the rows of a dataset, as columns of numbers."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.pairing import RowPairs
from .preference_rows import PreferenceRow, as_margins, compact_key
from .unpaired import side_by_side


class PairColumns:
    """
    Collects the pairs of each row, best-scored first, and counts its label ties.

    Args:
        tied_rows (`bool`): Whether rows whose scores are all tied are recorded, with their texts for the LM loss.
    """

    def __init__(self, tied_rows: bool = False):
        self.note_tied_rows = tied_rows
        self.tied_rows: list[int] = []
        self.unpaired: list[tuple[int, int, int, int]] = []
        self.better, self.worse, self.row, self.prompt = array("i"), array("i"), array("i"), array("i")
        self.lm_better, self.lm_worse = array("b"), array("b")
        self.margins: list[float | None] = []
        self.first_two = array("i")
        self.prompts: dict[Any, int] = {}
        self.num_label_ties = 0
        # From the row before: rows of one prompt follow each other, and most have the same scores.
        self._given: tuple[Any, ...] | None = None
        self._found: tuple[RowPairs, list[tuple[int, int]], list[bool]]
        self._key: Any = None
        self._prompt_number = 0

    def add_row(self, number: int, members: Sequence[int], row: PreferenceRow, threshold: float) -> None:
        """
        Adds the pairs of a row.

        Args:
            number (`int`): Index of the row.
            members (`Sequence[int]` of K): Text index of each response.
            row (`PreferenceRow`): The row.
            threshold (`float`): A text counts for the LM loss if score / (best score + 1e-5) is above it.
        """
        stated, pairs, qualifies = self._of_scores(row, threshold)
        prompt_number = self._number_of(row.prompt_key, number)
        for k in stated.first_two or ():
            self.first_two.append(members[k])
        for i, j in pairs:
            self.better.append(members[i])
            self.worse.append(members[j])
            self.row.append(number)
            self.prompt.append(prompt_number)
            self.lm_better.append(qualifies[i])
            self.lm_worse.append(qualifies[j])
            self.margins.append(row.margin)
        self.num_label_ties += len(stated.ties)
        if self.note_tied_rows and not stated.pairs:
            before = max(len(self.better) - 1, 0)
            self.tied_rows.append(before)
            texts = [text for text, counts in zip(members, qualifies) if counts]
            self.unpaired += side_by_side(texts, prompt_number, before)

    def _number_of(self, prompt_key: Any, row_number: int) -> int:
        """The number of a row's prompt."""
        if prompt_key is None or prompt_key != self._key:
            # A row without a prompt shares its texts with no other: it forms its own group for shuffling.
            key = row_number if prompt_key is None else compact_key(prompt_key)
            self._key, self._prompt_number = prompt_key, self.prompts.setdefault(key, len(self.prompts))
        return self._prompt_number

    def _of_scores(self, row: PreferenceRow, threshold: float) -> tuple[RowPairs, list[tuple[int, int]], list[bool]]:
        """The preferences stated by the scores of a row, its pairs, and which of its texts qualify."""
        given = (row.scores, row.writers, row.writers and row.domain, threshold)
        if given != self._given:
            best = max(row.scores)
            qualifies = [score == best if best <= 0 else score / (best + 1e-5) > threshold for score in row.scores]
            stated = row.pair_up()
            self._given, self._found = given, (stated, stated.best_first(), qualifies)
        return self._found

    def arrays(self) -> dict[str, Any]:
        """Returns the pair columns of `TokenizedPreferences`."""
        return {
            "better": np.array(self.better, dtype=np.int32),
            "worse": np.array(self.worse, dtype=np.int32),
            "row": np.array(self.row, dtype=np.int32),
            "prompt": np.array(self.prompt, dtype=np.int32),
            "lm_better": np.array(self.lm_better, dtype=bool),
            "lm_worse": np.array(self.lm_worse, dtype=bool),
            "margin": as_margins(self.margins),
            "first_two": np.array(self.first_two, dtype=np.int32).reshape(-1, 2),
            "num_label_ties": self.num_label_ties,
            "unpaired": np.array(self.unpaired, dtype=np.int32).reshape(-1, 4),
            "tied_rows": np.array(self.tied_rows, dtype=np.int32),
        }
