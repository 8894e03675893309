"""
How even steps are over many processes, on published rows, without a launch: `cd benchmarks && python -m speed.balance`.

Every step is planned for all processes, and the tokens of each micro-batch counted as they would be computed. DDP waits for
the busiest process once a step; FSDP and ZeRO-3 wait in every micro-batch for the busiest of it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.epoch_plan import EpochPlan
from rm_toolkit.batches.groups import PairGroups
from rm_toolkit.batches.pieces import Pieces
from rm_toolkit.batches.step_split import PLAN_VERSION
from rm_toolkit.batches.tokenization import TokenizedPreferences, tokenize_preferences
from rm_toolkit.output.markdown import table

from .data import load_rows, make_tokenizer


@dataclass(frozen=True)
class Setting:
    """Size of a step: processes, pairs of the step, and pairs or tokens of a micro-batch at most."""

    num_processes: int
    pairs_per_step: int
    pairs: int = 8
    tokens: int | None = None

    def __str__(self) -> str:
        limit = f"{self.pairs} pairs" if self.tokens is None else f"{self.tokens} tokens"
        return f"{self.num_processes} x {limit}, {self.pairs_per_step} a step"


SETTINGS = (
    Setting(2, 64),
    Setting(8, 64),
    Setting(8, 512),
    Setting(8, 512, tokens=8192),
    Setting(64, 512),
    Setting(64, 512, tokens=4096),
    Setting(64, 4096),
    Setting(64, 4096, tokens=8192),
    Setting(512, 4096),
    Setting(512, 4096, tokens=8192),
)


@dataclass
class Balance:
    """
    How even some steps are; means over the steps.

    Args:
        process (`float`): Tokens of the busiest process over the mean of all.
        slots (`float`): Sum over the micro-batches of the busiest process of each, over the same mean.
        bound (`float`): What neither can be below, because prompts are computed whole, and as many pairs at once as the
            limit asks for where the step fills all micro-batches; 1 where that is no matter.
        slots_bound (`float`): The same for `slots` alone: padded texts of a micro-batch are as long as its longest.
        micro_batches (`float`): Of each process.
        empty (`float`): Micro-batches without a pair, of all processes.
        seconds (`float`): Process CPU time of planning a step, on each process.
    """

    process: float
    slots: float
    bound: float
    slots_bound: float
    micro_batches: float
    empty: float
    seconds: float


def published(name: str, max_length: int = 512) -> TokenizedPreferences:
    """Token ids of the published rows `dsp` or `helpful`, or of the samples where those are not there; an 8K BPE."""
    rows = load_rows(name)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer([rows], Path(folder))
        dataset = rows.ranked() if name == "dsp" else rows.pairs()
        return tokenize_preferences(dataset, tokenizer, max_length=max_length, name=name, show_progress=False)


def repeated(data: TokenizedPreferences, num_pairs: int) -> TokenizedPreferences:
    """The same rows again and again until there are so many pairs; each time with other token ids, so that nothing is shared."""
    times = -(-num_pairs // len(data))
    copies = np.arange(times)[:, None]

    def numbered(values: np.ndarray, count: int) -> np.ndarray:
        return (values.astype(np.int64) + count * copies).ravel()

    counts = {"row": int(data.row.max()) + 1, "prompt": int(data.prompt.max()) + 1}
    return dataclasses.replace(
        data,
        ids=numbered(data.ids, int(data.ids.max()) + 1),
        offsets=np.append(0, np.cumsum(np.tile(data.lengths, times))),
        completion_start=np.tile(data.completion_start, times),
        better=numbered(data.better, data.num_sequences),
        worse=numbered(data.worse, data.num_sequences),
        row=numbered(data.row, counts["row"]),
        prompt=numbered(data.prompt, counts["prompt"]),
        margin=None,
        lm_better=np.tile(data.lm_better, times),
        lm_worse=np.tile(data.lm_worse, times),
        first_two=np.zeros((0, 2), dtype=np.int32),
    )


def measure(
    data: TokenizedPreferences,
    setting: Setting,
    *,
    shared: bool = True,
    steps: int = 3,
    version: int = PLAN_VERSION,
) -> Balance:
    """
    Plans the first steps of an epoch for all processes.

    Args:
        data (`TokenizedPreferences`): At least `steps` steps of pairs, see [`repeated`].
        setting (`Setting`): Size of a step.
        shared (`bool`): Whether a shared prompt is computed once, without padding; else padded rows.
        steps (`int`): How many are planned.
        version (`int`): 1 for the rule of version 0.4.0.
    """
    plan = plan_of(data, setting, shared=shared, version=version)
    collator = PreferenceCollator(0, layout="shared" if shared else "plain")
    found = []
    for number in range(steps):
        pairs = plan.pairs_of_step(0, number)
        begin = time.process_time()
        split = plan.split(pairs)
        seconds = time.process_time() - begin
        sequences = [
            split.parts[k].sequences
            if k in split.parts
            else np.unique(np.concatenate([data.better[own], data.worse[own]]))
            for k, own in enumerate(split.micro_batches)
        ]
        computed = np.array([_tokens(data, own, collator) for own in sequences]).reshape(-1, setting.num_processes)
        groups = PairGroups.of(data.prompt[pairs])
        pieces = plan.filler.pieces(pairs[groups.pairs], groups.starts)
        mean = computed.sum() / setting.num_processes
        bounds = [max(1.0, bound / mean) for bound in least_of_busiest(pieces, setting.num_processes, len(computed))]
        process, slots = computed.sum(axis=0).max() / mean, computed.max(axis=1).sum() / mean
        empty = sum(not len(own) for own in sequences)
        found.append((process, slots, *bounds, len(computed), empty, seconds))
    return Balance(*np.mean(found, axis=0).tolist())


def plan_of(
    data: TokenizedPreferences, setting: Setting, *, shared: bool = True, version: int = PLAN_VERSION, **options: Any
) -> EpochPlan:
    """
    Returns the plan of an epoch, as the first process has it.

    Args:
        data, setting, shared, version: As in [`measure`].
        **options: Of `EpochPlan`.
    """
    return EpochPlan(
        data,
        pairs_per_step=setting.pairs_per_step,
        pairs_per_micro_batch=setting.pairs,
        tokens_per_micro_batch=setting.tokens,
        num_processes=setting.num_processes,
        shared_layout=shared,
        version=version,
        **{"lm_loss": False, **options},
    )


def _tokens(data: TokenizedPreferences, sequences: np.ndarray, collator: PreferenceCollator) -> int:
    return collator.sequences(data, sequences).input_ids.numel() if len(sequences) else 0


def least_of_busiest(pieces: Pieces, num_processes: int, count: int) -> tuple[float, float]:
    """
    Tokens below which no way to deal a step can be, the mean of the processes apart.

    Args:
        pieces (`Pieces`): All pieces of the step.
        num_processes (`int`): Number of processes.
        count (`int`): Micro-batches of each.

    Returns:
        `tuple[float, float]`: Of the busiest process; and of the sum over the micro-batches of the busiest of each.
    """
    numbers = range(len(pieces))
    unit = pieces.sequences if pieces.padded else pieces.tokens
    # Pairs that every micro-batch holds, because the others cannot hold more than their limit.
    pairs = 0 if pieces.by_tokens else sum(pieces.pairs) - (num_processes * count - 1) * pieces.limit
    cheapest = sorted(numbers, key=lambda k: unit[k] / pieces.pairs[k])

    def filled_up(piece: int | None) -> float:
        """What a micro-batch costs at least, with that piece in it: texts where they are padded, else tokens."""
        missing, cost = (pairs, 0.0) if piece is None else (pairs - pieces.pairs[piece], float(unit[piece]))
        for other in cheapest:
            if missing <= 0:
                break
            if other != piece:
                cost += unit[other] * min(1.0, missing / pieces.pairs[other])
                missing -= pieces.pairs[other]
        return cost

    longest_first = sorted(numbers, key=lambda k: -pieces.longest[k])
    if not pieces.padded:
        process = filled_up(max(numbers, key=pieces.tokens.__getitem__))
        # Of `n` places for so many pieces each, those that do not fit into the first `m` times stand in later ones.
        most_pieces = num_processes * (len(pieces) if pieces.by_tokens else pieces.limit // min(pieces.pairs))
        return process, max(process, float(sum(sorted(pieces.tokens, reverse=True)[::most_pieces])))
    costs = sorted(pieces.own_costs(), reverse=True)
    if pieces.by_tokens and len(costs) >= num_processes * count:  # no place is empty
        if len(costs) == num_processes * count:  # and each has one piece
            slots = float(sum(costs[::num_processes]))
            return (max(map(sum, zip(costs, costs[::-1]))) if count == 2 else max(slots / count, costs[0])), slots
        if count == 1 and len(set(pieces.sequences)) == 1:
            return (float(_least_most(costs, num_processes)),) * 2
    process = max(filled_up(k) * pieces.longest[k] for k in longest_first[:8])
    process = max(process, *(pieces.cost([k]) for k in numbers))
    # Of `n` places at a time, the texts that do not fit into the first `m` times stand in later ones.
    slots, covered, full = 0.0, 0, 0
    for k in longest_first if not pieces.by_tokens else ():
        covered += pieces.pairs[k]
        while covered > full * num_processes * pieces.limit:
            slots += max(filled_up(None), min(unit)) * pieces.longest[k]
            full += 1
    return process, max(process, slots)


def _least_most(costs: list[int], number: int) -> int:
    """
    The largest of so many padded micro-batches at least, of prompts that have equally many texts each. The longest prompt
    has the micro-batch that it stands in made so long; none but the next longest are better company for it.

    Args:
        costs (`list[int]`): Tokens of each prompt alone, in descending order.
        number (`int`): Micro-batches; not more than prompts.
    """

    def needed(most: int) -> int:
        begin, batches = 0, 0
        while begin < len(costs):
            begin, batches = begin + most // costs[begin], batches + 1
        return batches

    low, high = costs[0], costs[0] * len(costs)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if needed(middle) > number else (low, middle)
    return low


def balance_table(name: str, settings: tuple[Setting, ...] = SETTINGS, *, shared: bool = True, steps: int = 3) -> str:
    """One line a setting: before and now, beside what the rows allow."""
    data, rows = published(name), []
    for setting in settings:
        enough = repeated(data, steps * setting.pairs_per_step)
        old, new = (measure(enough, setting, shared=shared, steps=steps, version=version) for version in (1, 2))
        rows.append(
            [
                str(setting),
                *(f"{value:.3f}" for value in (old.process, new.process, new.bound)),
                *(f"{value:.3f}" for value in (old.slots, new.slots, new.slots_bound)),
                *(f"{one.micro_batches:.1f}, {one.empty:.0f}" for one in (old, new)),
                *(f"{1000 * one.seconds:.1f}" for one in (old, new)),
            ]
        )
    columns = ["processes x micro-batch", *(f"step, {side}" for side in ("0.4.0", "now", "bound"))]
    columns += [f"each micro-batch, {side}" for side in ("0.4.0", "now", "bound")]
    columns += [f"micro-batches, empty: {side}" for side in ("0.4.0", "now")]
    columns += [f"planning, ms: {side}" for side in ("0.4.0", "now")]
    title = f"### Busiest process over the mean, {name}, {'shared prompts' if shared else 'padded rows'}"
    return f"{title}\n\n{table(columns, rows)}\n"


if __name__ == "__main__":
    for name in ("dsp", "helpful"):
        for shared in (True, False):
            print(balance_table(name, shared=shared), flush=True)
