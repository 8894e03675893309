"""Distributes a step over several processes: the same number of micro-batches on each, with equal sizes at the same time."""

from __future__ import annotations

from collections.abc import Callable

from .even_slots import EvenSlots
from .padded_slots import PaddedSlots
from .pieces import Pieces


def deal(
    pieces: Pieces, num_processes: int, first_fit: Callable[[], list[list[int]]], count: int | None = None
) -> list[list[list[int]]]:
    """
    Distributes the pieces of a step over as few micro-batches as the limit allows.

    Engines that shard weights exchange them in every micro-batch, so all processes wait for the largest of those
    that are computed at the same time; other engines wait once per step. A distribution that is even for the former is
    even for all.

    Args:
        pieces (`Pieces`): All pieces of the step, at least one.
        num_processes (`int`): Number of processes.
        first_fit (`Callable`): Fills the micro-batches of one process. Used if no even distribution is found; no
            process gets more micro-batches than first fit needs.
        count (`int`, *optional*): Micro-batches of each process, where that is given; not less than first fit needs.

    Returns:
        `list[list[list[int]]]`: The pieces of each process, for each micro-batch, the largest first. None is empty
            unless there are fewer pieces than micro-batches.
    """
    slots = PaddedSlots(pieces) if pieces.padded else EvenSlots(pieces)
    total = sum(size if size < pieces.limit else pieces.limit for size in pieces.own_sizes())
    count, most, batches = count or max(1, -(-total // (num_processes * pieces.limit))), count, []
    while most is None or count <= most:
        found = slots.find(count, num_processes)
        if found is not None:
            return _to_processes(pieces, found)
        if most is None:
            batches = first_fit()
            most = -(-len(batches) // num_processes)
        count += 1
    batches = batches or first_fit()
    pieces.spread(batches, most * num_processes)
    return _to_processes(pieces, slots.arrange(batches, num_processes))


def _to_processes(pieces: Pieces, slots: list[list[list[int]]]) -> list[list[list[int]]]:
    """The process with the fewest tokens so far always gets the largest micro-batch."""
    totals = [0] * len(slots[0])
    dealt = []
    for slot in slots:
        costs = [pieces.cost(batch) for batch in slot]
        largest_first = sorted(range(len(slot)), key=lambda k: (-costs[k], slot[k]))
        row: list[list[int]] = [[]] * len(slot)
        for process, number in zip(sorted(range(len(slot)), key=totals.__getitem__), largest_first):
            row[process] = sorted(slot[number])
            totals[process] += costs[number]
        dealt.append(row)
    return dealt
