"""
How evenly steps are balanced over many processes, on published rows: `cd benchmarks && python -m speed.balance`.

No process is launched: each step is planned for all processes, and the tokens that each micro-batch would compute are
counted. DDP waits for the busiest process once per step; FSDP and ZeRO-3 wait for the busiest in every micro-batch.
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
    """Size of a step: processes, pairs per step, and the limit of a micro-batch in pairs or tokens."""

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
    How balanced some steps are; means over the steps.

    Args:
        process (`float`): Tokens of the busiest process, relative to the mean over processes.
        slots (`float`): Tokens of the busiest process of each micro-batch, summed over micro-batches, relative to the
            same mean.
        bound (`float`): Lower bound of both, at least 1: a prompt is never split, and if the step fills all
            micro-batches, each holds a minimum number of pairs.
        slots_bound (`float`): Lower bound of `slots`, which also counts that texts are padded to the longest of their
            micro-batch.
        micro_batches (`float`): Micro-batches per process.
        empty (`float`): Micro-batches without a pair, over all processes.
        seconds (`float`): CPU time to plan a step; every process does this.
    """

    process: float
    slots: float
    bound: float
    slots_bound: float
    micro_batches: float
    empty: float
    seconds: float


def published(name: str, max_length: int = 512) -> TokenizedPreferences:
    """Token ids (8K BPE) of the published rows `dsp` or `helpful`, or of the samples if there are none."""
    rows = load_rows(name)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer([rows], Path(folder))
        dataset = rows.ranked() if name == "dsp" else rows.pairs()
        return tokenize_preferences(dataset, tokenizer, max_length=max_length, name=name, show_progress=False)


def repeated(data: TokenizedPreferences, num_pairs: int) -> TokenizedPreferences:
    """Repeats the rows until there are `num_pairs` pairs, with new token ids each time, so that nothing is shared."""
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
    Plans the first steps of an epoch for all processes and measures their balance.

    Args:
        data (`TokenizedPreferences`): Enough pairs for `steps` steps, see [`repeated`].
        setting (`Setting`): Size of a step.
        shared (`bool`): Whether shared prompts are computed once, without padding; otherwise, rows are padded.
        steps (`int`): Number of steps to plan.
        version (`int`): Version of the plan; 1 is the rule of 0.4.0.
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
    Returns the first process's plan of an epoch.

    Args:
        data, setting, shared, version: As in [`measure`].
        **options: Further arguments of `EpochPlan`.
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
    Lower bounds, in tokens, for any way to deal a step to the processes, apart from the mean over processes.

    Args:
        pieces (`Pieces`): All pieces of the step.
        num_processes (`int`): Number of processes.
        count (`int`): Micro-batches per process.

    Returns:
        `tuple[float, float]`: For the busiest process, and for the busiest of each micro-batch, summed over them.
    """
    numbers = range(len(pieces))
    unit = pieces.sequences if pieces.padded else pieces.tokens
    # Pairs that every micro-batch must hold, because the others cannot hold more than their limit.
    pairs = 0 if pieces.by_tokens else sum(pieces.pairs) - (num_processes * count - 1) * pieces.limit
    cheapest = sorted(numbers, key=lambda k: unit[k] / pieces.pairs[k])

    def filled_up(piece: int | None) -> float:
        """Least cost of a micro-batch that contains this piece, in texts if they are padded, otherwise in tokens."""
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
        # The processes together hold at most this many pieces at a time; the next longest go into a later micro-batch.
        most_pieces = num_processes * (len(pieces) if pieces.by_tokens else pieces.limit // min(pieces.pairs))
        return process, max(process, float(sum(sorted(pieces.tokens, reverse=True)[::most_pieces])))
    costs = sorted(pieces.own_costs(), reverse=True)
    if pieces.by_tokens and len(costs) >= num_processes * count:  # no micro-batch is empty
        if len(costs) == num_processes * count:  # and each holds one piece
            slots = float(sum(costs[::num_processes]))
            return (max(map(sum, zip(costs, costs[::-1]))) if count == 2 else max(slots / count, costs[0])), slots
        if count == 1 and len(set(pieces.sequences)) == 1:
            return (float(_least_most(costs, num_processes)),) * 2
    process = max(filled_up(k) * pieces.longest[k] for k in longest_first[:8])
    process = max(process, *(pieces.cost([k]) for k in numbers))
    # The processes together hold at most `limit` pairs each at a time; the next longest go into a later micro-batch.
    slots, covered, full = 0.0, 0, 0
    for k in longest_first if not pieces.by_tokens else ():
        covered += pieces.pairs[k]
        while covered > full * num_processes * pieces.limit:
            slots += max(filled_up(None), min(unit)) * pieces.longest[k]
            full += 1
    return process, max(process, slots)


def _least_most(costs: list[int], number: int) -> int:
    """
    Least size of the largest of `number` padded micro-batches, for prompts with equally many texts each. All texts of
    a micro-batch are padded to its longest prompt, so it is best filled with the next longest ones.

    Args:
        costs (`list[int]`): Tokens of each prompt alone, in descending order.
        number (`int`): Number of micro-batches, at most the number of prompts.

    Returns:
        `int`: Size in tokens.
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
    """A table with a row per setting: version 0.4.0, now, and the bound that the rows allow."""
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
