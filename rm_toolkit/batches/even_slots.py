"""Micro-batches without padding for several processes: those computed at the same time have nearly equal tokens."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from .pieces import Pieces


EVEN = 1.003  # ratio of the largest to the mean in a slot at which no further exchange is tried
UNEVEN = 1.01  # ratio above which the others of the slot are filled up with pieces of later slots
PARTNERS = 8  # number of smallest micro-batches with which the largest tries to exchange pieces
CANDIDATES = 32  # pieces of about the wanted size to consider
EXCHANGES = 64  # maximum per micro-batch


class EvenSlots:
    """
    Deals pieces whose tokens add up: the largest first, each to the micro-batch with the fewest tokens.

    Args:
        pieces (`Pieces`): The pieces of a step.
    """

    def __init__(self, pieces: Pieces):
        self.pieces, self.tokens, self.limit = pieces, pieces.tokens, pieces.limit
        self.sizes = pieces.sizes

    def find(self, count: int, num_processes: int) -> list[list[list[int]]] | None:
        """
        Args:
            count (`int`): Micro-batches of each process.
            num_processes (`int`): Number of processes.

        Returns:
            `list[list[list[int]]]`: See [`arrange`]; `None` if no arrangement of that many holds all pieces.
        """
        batches = self._dealt(range(len(self.pieces)), count * num_processes)
        return None if batches is None else self.arrange(batches, num_processes)

    def arrange(self, batches: list[list[int]], num_processes: int) -> list[list[list[int]]]:
        """Returns slots of one micro-batch per process, evened out within each slot by exchanges."""
        slots = []
        rest = [_Batch(self, batch) for batch in batches]
        while rest:
            rest.sort(key=lambda batch: -batch.tokens)
            slot, rest = rest[:num_processes], rest[num_processes:]
            self._even_out(slot)
            most, total = (function(batch.tokens for batch in slot) for function in (max, sum))
            if rest and most * len(slot) > UNEVEN * total:
                # All wait for one large piece: the others use that time for pieces of later slots.
                pool = _Pool(self, rest)
                for batch in slot:
                    pool.fill_up(batch, most)
                again = self._dealt([k for batch in rest for k in batch.pieces], len(rest))
                rest = rest if again is None else [_Batch(self, batch) for batch in again]
            slots.append([batch.pieces for batch in slot])
        return slots

    def _dealt(self, numbers: Iterable[int], count: int) -> list[list[int]] | None:
        """This many micro-batches of nearly equal tokens, or `None` if a piece does not fit."""
        tokens, sizes = self.tokens, self.sizes
        numbers = sorted(numbers, key=lambda k: (-tokens[k], k))
        if self.pieces.by_tokens:
            return self._by_tokens(numbers, count)
        # Pieces of many pairs may not fit at the end: they go first if the order by tokens fails.
        found = self._by_pairs(numbers, count)
        return self._by_pairs(sorted(numbers, key=lambda k: -sizes[k]), count) if found is None else found

    def _by_tokens(self, numbers: list[int], count: int) -> list[list[int]] | None:
        batches: list[list[int]] = [[] for _ in range(count)]
        heap = [(0, batch) for batch in range(count)]
        for piece in numbers:
            size, batch = heap[0]
            if batches[batch] and size + self.sizes[piece] > self.limit:
                return None  # the one with the fewest tokens has the most room
            batches[batch].append(piece)
            heapq.heapreplace(heap, (size + self.sizes[piece], batch))
        return batches

    def _by_pairs(self, numbers: list[int], count: int) -> list[list[int]] | None:
        batches: list[list[int]] = [[] for _ in range(count)]
        by_room = {
            self.limit: [(0, batch) for batch in range(count)]
        }  # micro-batches that have room for that many pairs
        for piece in numbers:
            size, fewest, room = self.sizes[piece], None, 0
            for other, heap in by_room.items():
                if other >= size and (fewest is None or heap[0] < fewest):
                    fewest, room = heap[0], other
            if fewest is None:
                return None
            tokens, batch = heapq.heappop(by_room[room])
            if not by_room[room]:
                del by_room[room]
            batches[batch].append(piece)
            if room > size:
                heapq.heappush(by_room.setdefault(room - size, []), (tokens + self.tokens[piece], batch))
        return batches

    def _even_out(self, slot: list[_Batch]) -> None:
        """Exchanges pieces between the largest and the smallest, or moves one, as long as the largest gets smaller."""
        enough = EVEN * sum(batch.tokens for batch in slot) / len(slot)
        order = sorted((batch.tokens, number) for number, batch in enumerate(slot))
        for _ in range(EXCHANGES * len(slot)):
            largest = slot[order[-1][1]]
            if largest.tokens <= enough:
                return
            for place, (_, number) in enumerate(order[: min(PARTNERS, len(order) - 1)]):
                found = largest.exchange_with(slot[number])
                if found is None:
                    continue
                largest.swap(found[0], slot[number], found[1])
                last = order.pop()[1]
                order.pop(place)
                for changed in (last, number):
                    insort(order, (slot[changed].tokens, changed))
                break
            else:
                return


class _Batch:
    """A micro-batch under construction."""

    def __init__(self, of: EvenSlots, pieces: list[int]):
        self.of, self.pieces = of, pieces
        self.tokens = sum(of.tokens[k] for k in pieces)
        self.size = sum(of.sizes[k] for k in pieces)

    def takes(self, more: int) -> bool:
        """Whether it may grow by this much of the limited quantity; one over the limit may not grow."""
        return more <= 0 or self.size + more <= self.of.limit

    def exchange_with(self, other: _Batch) -> tuple[int, int | None] | None:
        """The exchange with a smaller micro-batch (of a piece for a piece or for none) that minimizes the larger one."""
        tokens, sizes = self.of.tokens, self.of.sizes
        gap = self.tokens - other.tokens
        best, found = gap, None  # twice the distance from the middle
        for piece in self.pieces:
            for partner in other.pieces:
                off = abs(2 * (tokens[piece] - tokens[partner]) - gap)
                if off < best:
                    more = sizes[piece] - sizes[partner]
                    if other.takes(more) and self.takes(-more):
                        best, found = off, (piece, partner)
            off = abs(2 * tokens[piece] - gap)
            if off < best and len(self.pieces) > 1 and other.takes(sizes[piece]):
                best, found = off, (piece, None)
        return found

    def swap(self, piece: int | None, other: _Batch, partner: int | None) -> None:
        """Gives a piece to another micro-batch in exchange for one of its pieces."""
        for giver, taker, number in ((self, other, piece), (other, self, partner)):
            if number is not None:
                giver.pieces.remove(number)
                taker.pieces.append(number)
                for batch, sign in ((giver, -1), (taker, 1)):
                    batch.tokens += sign * self.of.tokens[number]
                    batch.size += sign * self.of.sizes[number]


class _Pool:
    """The pieces of later micro-batches, which fill up earlier ones."""

    def __init__(self, of: EvenSlots, batches: list[_Batch]):
        self.of, self.batches = of, batches
        self.order = sorted((of.tokens[k], k, number) for number, batch in enumerate(batches) for k in batch.pieces)

    def fill_up(self, batch: _Batch, most: int) -> None:
        """Takes pieces from the pool, in exchange for smaller ones or none, until there are nearly `most` tokens."""
        for _ in range(EXCHANGES):
            gap = most - batch.tokens
            best, found = 0, None
            for piece in (None, *batch.pieces) if gap else ():
                given = 0 if piece is None else self.of.tokens[piece]
                for place in self._of_at_most(given + gap, given + best):
                    if self._fits(batch, piece, place):
                        best, found = self.order[place][0] - given, (piece, place)
                        break
            if found is None:
                return
            piece, place = found
            _, partner, number = self.order.pop(place)
            batch.swap(piece, self.batches[number], partner)
            if piece is not None:
                insort(self.order, (self.of.tokens[piece], piece, number))

    def _of_at_most(self, tokens: int, more_than: int) -> range:
        last = bisect_left(self.order, (tokens + 1, -1, -1))
        first = bisect_right(self.order, (more_than + 1, -1, -1))
        return range(last - 1, max(first, last - CANDIDATES) - 1, -1)

    def _fits(self, batch: _Batch, piece: int | None, place: int) -> bool:
        _, partner, number = self.order[place]
        other, sizes = self.batches[number], self.of.sizes
        more = sizes[partner] - (0 if piece is None else sizes[piece])
        return batch.takes(more) and other.takes(-more) and (piece is not None or len(other.pieces) > 1)
