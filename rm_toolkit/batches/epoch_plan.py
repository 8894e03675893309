"""Plans which pairs form an optimizer step, and which process computes which of them, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from .collator import PreferenceCollator
from .filling import Filler
from .groups import PairGroups
from .many_responses import ResponsePart
from .micro_batch import MicroBatch
from .step_split import PLAN_VERSION, StepSplit, split_pairs
from .tokenization import TokenizedPreferences
from .unpaired import joining


@dataclass
class StepPlan:
    """
    One process's share of one optimizer step.

    Args:
        micro_batches (`list[np.ndarray]`): Numbers of the pairs of each micro-batch of this process; all processes have
            the same number of them, some may be empty.
        lm_sequences (`list[np.ndarray]`): The sequences whose LM loss each micro-batch counts; each text of the step
            is in only one of them.
        pair_weight (`np.ndarray` of shape `(num_pairs_of_data,)`): View on the weights of the step, by pair number.
        lm_weight (`float`): 1 / number of texts of the step's LM loss.
        num_pairs (`int`): Pairs of the step, over all processes.
        parts (`dict[int, ResponsePart]`): Sequences of micro-batches whose sequences are not just those of their
            pairs.
        first_passes (`int`): Largest number of such micro-batches on a process.
        anchor_weight (`float`): 1 / number of replayed general pairs of the step.
    """

    micro_batches: list[np.ndarray]
    lm_sequences: list[np.ndarray]
    pair_weight: dict[int, float]
    lm_weight: float
    num_pairs: int
    anchor_weight: float = 0.0
    parts: dict[int, ResponsePart] = field(default_factory=dict)
    first_passes: int = 0


class EpochPlan(Sampler):
    """
    Plans the steps of a run, each independently; as a batch sampler, yields one `[StepPlan]` per step of an epoch.

    Every process plans the same epoch from the same seed, so nothing has to be communicated. Each step has exactly
    `pairs_per_step` pairs (the last of an epoch may have fewer), and every process the same number of micro-batches.

    Args:
        data (`TokenizedPreferences`): The training pairs.
        pairs_per_step (`int`): Pairs of one optimizer step, over all processes.
        pairs_per_micro_batch (`int`): Pairs that one process computes at a time.
        num_processes (`int`): Number of processes.
        process_index (`int`): Index of this process.
        seed (`int`): Seed of the order; each epoch has its own.
        group_by_prompt (`bool`): Whether the pairs of a prompt stay together. Otherwise the rows are shuffled singly.
        pair_weighting (`str`): `"pair"`: all pairs of a step weigh the same. `"prompt"`: mean within a row, then
            over the rows; rows whose scores are all tied count as 0, in the step of the preceding pair.
        shuffle (`bool`): Whether the order is shuffled at all.
        tokens_per_micro_batch (`int`, *optional*): Fills micro-batches by tokens instead of pairs.
        shared_layout (`bool`): Whether tokens are counted without padding, a shared prompt once.
        lm_loss (`bool`): Whether the run has an LM loss: texts in no pair are computed only for it.
        version (`int`): Rule for splitting pairs over several processes, up to `PLAN_VERSION`; for one process there
            is only one rule.
    """

    def __init__(
        self,
        data: TokenizedPreferences,
        *,
        pairs_per_step: int,
        pairs_per_micro_batch: int,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 42,
        group_by_prompt: bool = True,
        pair_weighting: str = "pair",
        shuffle: bool = True,
        tokens_per_micro_batch: int | None = None,
        shared_layout: bool = False,
        lm_loss: bool = True,
        version: int = PLAN_VERSION,
    ):
        self.data = data
        self.version = version
        self.pairs_per_step = pairs_per_step
        filled_with = data.with_unpaired() if lm_loss else data
        self.filler = Filler(
            filled_with, pairs_per_micro_batch, tokens_per_micro_batch, shared_layout, once=version > 1
        )
        self.num_processes = num_processes
        self.process_index = process_index
        self.seed = seed
        self.pair_weighting = pair_weighting
        self.shuffle = shuffle
        self.epoch = self.skipped = 0
        self._groups = PairGroups.of(data.prompt if group_by_prompt else data.row)
        self._orders: dict[str, tuple[list[int], np.ndarray]] = {}

    def __len__(self) -> int:
        return -(-len(self.data) // self.pairs_per_step)

    def set_epoch(self, epoch: int, skipped: int = 0) -> None:
        """
        Chooses the epoch whose order is planned next.

        Args:
            epoch (`int`): Its number, from 0.
            skipped (`int`): Number of first steps to skip; `None` is yielded for them.
        """
        self.epoch, self.skipped = epoch, skipped

    def __iter__(self) -> Iterator[list[StepPlan | None]]:
        epoch, skipped = self.epoch, self.skipped
        for number in range(len(self)):
            yield [None if number < skipped else self.plan_step(self.pairs_of_step(epoch, number))]

    def resize(self, pairs: int, tokens: int | None) -> None:
        """Changes the limit of the micro-batches from the next planned step on; the pairs of steps do not change."""
        self.filler.pairs, self.filler.tokens = pairs, tokens

    def pairs_of_step(self, epoch: int, number: int) -> np.ndarray:
        """Returns the pair indices of one step of an epoch, without planning other steps."""
        begin = number * self.pairs_per_step
        return self._shuffled("pairs", self._groups, [self.seed, epoch])[begin : begin + self.pairs_per_step]

    def _shuffled(self, name: str, groups: PairGroups, seed: list[int]) -> np.ndarray:
        """All pairs in the order of a seed; the last order of each name is cached."""
        known = self._orders.get(name)
        if known is None or known[0] != seed:
            order = np.random.default_rng(seed).permutation(len(groups)) if self.shuffle else np.arange(len(groups))
            known = self._orders[name] = (seed, groups.take(order).pairs)
        return known[1]

    def plan_step(self, pairs: np.ndarray) -> StepPlan:
        """
        Splits the pairs of one step over processes and micro-batches.

        Pairs of one prompt stay together, prompts of similar length are computed together: the sum over the step does
        not depend on the order, but padding does.
        """
        split, number = self.split(pairs), self.num_processes
        parts = [
            {place // number: part for place, part in split.parts.items() if place % number == process}
            for process in range(number)
        ]
        return StepPlan(
            micro_batches=split.micro_batches[self.process_index :: number],
            lm_sequences=split.lm_sequences[self.process_index :: number],
            pair_weight=self._weights(pairs),
            lm_weight=1.0 / max(sum(map(len, split.lm_sequences)), 1),
            num_pairs=len(pairs),
            parts=parts[self.process_index],
            first_passes=max(map(len, parts)),
        )

    def split(self, pairs: np.ndarray) -> StepSplit:
        """Splits the pairs of one step over all processes, see [`split_pairs`]."""
        return split_pairs(self.data, self.filler, pairs, self.num_processes, self.version)

    def _weights(self, pairs: np.ndarray) -> dict[int, float]:
        if self.pair_weighting == "pair":
            return dict.fromkeys(pairs.tolist(), 1.0 / len(pairs))
        rows, inverse, counts = np.unique(self.data.row[pairs], return_inverse=True, return_counts=True)
        num_rows = len(rows) + len(joining(self.data.tied_rows, pairs)[0])
        return dict(zip(pairs.tolist(), (1.0 / (counts[inverse] * num_rows)).tolist()))


class StepDataset(TorchDataset):
    """
    Turns a step's plan into its micro-batches. `len()` counts pairs, like every batch size of the toolkit.

    Args:
        data (`TokenizedPreferences`): The training pairs.
        collator (`PreferenceCollator`): Builds the tensors.
    """

    def __init__(self, data: TokenizedPreferences, collator: PreferenceCollator):
        self.data = data
        self.collator = collator

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, plan: StepPlan) -> list[MicroBatch]:
        batches = [
            self.collator.pairs(
                self.data,
                pairs,
                np.array([plan.pair_weight[k] for k in pairs.tolist()]),
                lm_sequences,
                plan.lm_weight,
                plan.anchor_weight,
                plan.parts.get(number),
            )
            for number, (pairs, lm_sequences) in enumerate(zip(plan.micro_batches, plan.lm_sequences))
        ]
        for batch in batches[:1]:
            batch.first_passes = plan.first_passes
        return batches


def take_only(items: list) -> object:
    """Collate function for ready batches: returns the one item."""
    return items[0]
