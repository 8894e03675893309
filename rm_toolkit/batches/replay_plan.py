"""General preferences next to customized ones in every step: two tokenized datasets in one, and their plan."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from .epoch_plan import EpochPlan, StepPlan
from .tokenization import TokenizedPreferences


def join(customized: TokenizedPreferences, general: TokenizedPreferences) -> TokenizedPreferences:
    """
    Concatenates two tokenized datasets. Texts of the second never count for the LM loss.

    Args:
        customized (`TokenizedPreferences`): Its pairs keep their indices.
        general (`TokenizedPreferences`): Its pairs follow, with row, prompt and sequence indices shifted.
    """
    rows, prompts = (int(values.max(initial=-1)) + 1 for values in (customized.row, customized.prompt))
    sequences = customized.num_sequences
    off = np.zeros(len(general), dtype=bool)
    margin = None
    if customized.margin is not None or general.margin is not None:
        margin = np.concatenate(
            [np.zeros(len(d), dtype=np.float32) if d.margin is None else d.margin for d in (customized, general)]
        )
    return TokenizedPreferences(
        name=customized.name,
        ids=np.concatenate([customized.ids, general.ids]),
        offsets=np.concatenate([customized.offsets, general.offsets[1:] + customized.offsets[-1]]),
        completion_start=np.concatenate([customized.completion_start, general.completion_start]),
        better=np.concatenate([customized.better, general.better + sequences]),
        worse=np.concatenate([customized.worse, general.worse + sequences]),
        row=np.concatenate([customized.row, general.row + rows]),
        prompt=np.concatenate([customized.prompt, general.prompt + prompts]),
        margin=margin,
        lm_better=np.concatenate([customized.lm_better, off]),
        lm_worse=np.concatenate([customized.lm_worse, off]),
        first_two=np.concatenate([customized.first_two, general.first_two + sequences]),
        unpaired=customized.unpaired,  # texts of the general data do not count for the LM loss
        tied_rows=np.concatenate([customized.tied_rows, general.tied_rows + len(customized)]),
        num_label_ties=customized.num_label_ties + general.num_label_ties,
        lm_target_eos=customized.lm_target_eos,
    )


def replayed_per_step(pairs_per_step: int, fraction: float) -> int:
    """
    Number of replayed pairs per step.

    Args:
        pairs_per_step (`int`): All pairs of a step.
        fraction (`float`): Wanted share of replayed pairs.

    Raises:
        `InputError`: if a step of that size cannot have pairs of both kinds in about that proportion.
    """
    count = round(fraction * pairs_per_step)
    if not 0 < count < pairs_per_step:
        raise InputError(
            f"`general_replay_fraction` is {fraction:g} of `pairs_per_step` {pairs_per_step}, which makes {count} general "
            f"and {pairs_per_step - count} customized pairs per step; each kind needs at least one. Change one of "
            f"the two settings."
        )
    return count


class ReplayPlan(EpochPlan):
    """
    Plans steps with a fixed number of replayed pairs. An epoch is one pass through the customized pairs.

    The general pairs have their own order, reshuffled for each pass; the next epoch continues where the last one
    stopped, so that every pair is used before any is used again.

    Args:
        data (`TokenizedPreferences`): From [`join`].
        num_customized (`int`): Number of customized pairs, which come first.
        fraction (`float`): Share of each step's pairs that is replayed, between 0 and 1.
        options: Those of [`~rm_toolkit.batches.epoch_plan.EpochPlan`].
    """

    def __init__(self, data: TokenizedPreferences, num_customized: int, fraction: float, **options: Any):
        super().__init__(data, **options)
        self.num_customized = num_customized
        self.replayed = replayed_per_step(self.pairs_per_step, fraction)
        general = self._groups.pairs[self._groups.starts[:-1]] >= num_customized  # no group has pairs of both kinds
        self._general_groups = self._groups.take(np.flatnonzero(general))
        self._groups = self._groups.take(np.flatnonzero(~general))

    def __len__(self) -> int:
        return -(-self.num_customized // (self.pairs_per_step - self.replayed))

    def pairs_of_step(self, epoch: int, number: int) -> np.ndarray:
        """Returns the pair indices of one step of an epoch, the replayed ones after the others."""
        fresh = self.pairs_per_step - self.replayed
        begin = number * fresh
        customized = self._shuffled("pairs", self._groups, [self.seed, epoch])[begin : begin + fresh]
        before = epoch * self._replayed_by(self.num_customized)
        position, end = (before + self._replayed_by(count) for count in (begin, begin + len(customized)))
        return np.concatenate([customized, self._general(position, end)])

    def plan_step(self, pairs: np.ndarray) -> StepPlan:
        """As in `EpochPlan`, with the share of each replayed pair in their own mean."""
        plan = super().plan_step(pairs)
        plan.anchor_weight = 1.0 / max(int((pairs >= self.num_customized).sum()), 1)
        return plan

    def _replayed_by(self, customized: int) -> int:
        """Number of general pairs that go with this many customized ones of an epoch; at least 1 for a last step."""
        whole, rest = divmod(customized, self.pairs_per_step - self.replayed)
        part = max(1, round(rest * self.replayed / (self.pairs_per_step - self.replayed))) if rest else 0
        return whole * self.replayed + part

    def _general(self, begin: int, end: int) -> np.ndarray:
        """Pairs `begin` to `end` of the endless series of passes through the general pairs."""
        size = len(self.data) - self.num_customized
        taken = []
        while begin < end:
            number, start = divmod(begin, size)
            # A third number makes the order of a pass differ from that of the epoch with the same index.
            order = self._shuffled("general", self._general_groups, [self.seed, number, 1])
            taken.append(order[start : start + end - begin])
            begin += len(taken[-1])
        return np.concatenate(taken)
