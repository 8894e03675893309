"""Which pairs are computed together: micro-batches filled by pairs or tokens, keeping the pairs of a prompt together."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from .dealing import deal
from .first_fit import FirstFit
from .groups import PairGroups
from .many_responses import ManyResponses, responses_once
from .pieces import Pieces
from .prefixes import SHARING_OVERHEAD, common_beginnings
from .tokenization import TokenizedPreferences


@dataclass
class Filler:
    """
    Fills micro-batches up to a limit. A group that does not fit into one is split, and its prompt is computed again.

    Args:
        data (`TokenizedPreferences`): The pairs.
        pairs (`int`): Maximum number of pairs per micro-batch; not used if `tokens` is given.
        tokens (`int`, *optional*): Maximum number of tokens per micro-batch: those of the flat row, or with padding.
        shared (`bool`): Whether a shared beginning counts once and padding does not count.
        once (`bool`): Whether the responses of a prompt over the limit may be computed once each.
    """

    data: TokenizedPreferences
    pairs: int
    tokens: int | None = None
    shared: bool = False
    once: bool = True
    _prompts: PairGroups | None = field(default=None, repr=False)
    _shared_tokens: dict[int, int] = field(default_factory=dict, repr=False)

    def fill(self, groups: list[np.ndarray]) -> list[np.ndarray]:
        """
        Args:
            groups (`list[np.ndarray]`): Pair indices of each prompt.

        Returns:
            `list[np.ndarray]`: Pair indices of each micro-batch; a single pair over the limit gets its own.
        """
        starts = np.concatenate([[0], np.cumsum([len(group) for group in groups], dtype=np.int64)])
        return self.fill_groups(np.concatenate(groups) if groups else np.zeros(0, dtype=np.int64), starts)

    def fill_groups(
        self, pairs: np.ndarray, starts: np.ndarray, many: list[ManyResponses] | None = None
    ) -> list[np.ndarray]:
        """
        As [`fill`], with the groups concatenated in one array.

        Args:
            pairs (`np.ndarray` of shape `(num_pairs,)`): Pair indices, prompt by prompt.
            starts (`np.ndarray` of shape `(num_groups + 1,)`): Where each prompt begins in `pairs`; none is empty.
            many (`list`, *optional*): Receives the prompts whose responses are better computed once each than with every
                piece of their pairs.
        """
        pieces = self._pieces(pairs, starts, many)
        batches = self._first_fit(pieces)
        return [np.concatenate([pairs[pieces[k].begin : pieces[k].end] for k in batch]) for batch in batches]

    def deal_groups(
        self,
        pairs: np.ndarray,
        starts: np.ndarray,
        num_processes: int,
        count: int | None = None,
        many: list[ManyResponses] | None = None,
    ) -> list[list[np.ndarray]]:
        """
        Deals the micro-batches of several processes, see [`~rm_toolkit.batches.dealing.deal`].

        Args:
            pairs, starts, many: As in [`fill_groups`]; at least one pair.
            num_processes (`int`): Number of processes.
            count (`int`, *optional*): Fixed number of micro-batches per process, including those of `many`.

        Returns:
            `list[list[np.ndarray]]`: Pair indices of each process, for each micro-batch.
        """
        found = self._pieces(pairs, starts, many)
        if not found:
            return []
        if count is not None:
            count -= sum(len(prompt.sequences) for prompt in many or [])
        dealt = deal(self._costs(pairs, found), num_processes, partial(self._first_fit, found), count)
        order = [found[k] for slot in dealt for batch in slot for k in batch]
        begin, end = (np.array(column, dtype=np.int64) for column in list(zip(*order))[:2])
        ends = np.cumsum(end - begin)
        own = pairs[np.repeat(end - ends, end - begin) + np.arange(ends[-1])]  # piece by piece
        last = np.cumsum([len(batch) for slot in dealt for batch in slot])
        chunks = np.split(own, np.append(0, ends)[last[:-1]])
        return [chunks[k : k + num_processes] for k in range(0, len(chunks), num_processes)]

    def pieces(self, pairs: np.ndarray, starts: np.ndarray) -> Pieces:
        """Returns the costs of the pieces of a step, see [`deal_groups`]."""
        return self._costs(pairs, self._pieces(pairs, starts, None))

    def _costs(self, pairs: np.ndarray, found: list[_Piece]) -> Pieces:
        if self.tokens is None:  # without pieces of groups that are not contiguous
            starts = np.cumsum([0, *(piece.end - piece.begin for piece in found)])
            own = np.concatenate([pairs[piece.begin : piece.end] for piece in found])
            *_, sequences, longest, tokens, saved = self._counted(own, starts)
        else:
            *_, sequences, longest, tokens, saved = map(np.array, zip(*found))
        return Pieces(
            pairs=[piece.num_pairs for piece in found],
            sequences=sequences.tolist(),
            longest=longest.tolist(),
            tokens=(tokens - np.where(saved > 0, SHARING_OVERHEAD, 0)).tolist(),  # actually computed tokens
            sizes=list(map(self._cost, found)),
            limit=self._limit,
            by_tokens=self.tokens is not None,
            padded=not self.shared,
        )

    def _first_fit(self, pieces: list[_Piece]) -> list[list[int]]:
        """Piece indices of each micro-batch."""
        fitting, members, batches = FirstFit(len(pieces)), [], []
        for number, piece in enumerate(pieces):
            # First fit: space left by a split or odd group is used by a later one.
            target = self._target(fitting, batches, piece)
            if target is None:
                target = len(batches)
                batches.append(piece)
                members.append([])
            else:
                batches[target] = batches[target].with_piece(piece)
            members[target].append(number)
            fitting.set(target, self._filled(batches[target]))
        return members

    def _target(self, fitting: FirstFit, batches: list[_Piece], piece: _Piece) -> int | None:
        """The first batch that the piece fits into."""
        if self.tokens is None or self.shared:
            return fitting.first(self._limit - self._filled(piece))
        # Padded rows: no more sequences than fit at the piece's own length, nor at the batch's, which is rarely longer.
        target = fitting.first(self._limit // piece.longest - piece.num_sequences)
        while target is not None and self._cost(batches[target].with_piece(piece)) > self._limit:
            target = fitting.first(self._limit // piece.longest - piece.num_sequences, target + 1)
        return target

    @property
    def _limit(self) -> int:
        return self.pairs if self.tokens is None else self.tokens

    def _filled(self, batch: _Piece) -> int:
        if self.tokens is None:
            return batch.num_pairs
        return batch.num_tokens if self.shared else batch.num_sequences

    def _cost(self, batch: _Piece) -> int:
        if self.tokens is None:
            return batch.num_pairs
        return batch.num_tokens if self.shared else batch.num_sequences * batch.longest

    def _pieces(self, pairs: np.ndarray, starts: np.ndarray, many: list[ManyResponses] | None) -> list[_Piece]:
        found: list[_Piece] = []
        limit, cost = self._limit, self._cost
        for piece in self._contents(pairs, starts):
            if cost(piece) <= limit:
                found.append(piece)
                continue
            parts, once = self._split(pairs, piece), None
            if many is not None and self.once and len(parts) > 1:
                once = self._responses_once([pairs[part.begin : part.end] for part in parts])
            if once is None:
                found += parts
            elif len(once.sequences) == 1:  # its responses fit into a micro-batch, counted as half as many pairs
                found.append(piece._replace(num_pairs=-(-len(once.sequences[0]) // 2)))
            else:
                many.append(once)
        return found

    def _responses_once(self, pieces: list[np.ndarray]) -> ManyResponses | None:
        common = self.shared_tokens(self.data.prompt[pieces[0][:1]])[0] if self.shared else 0
        limit = {"pairs": self.pairs, "tokens": self.tokens}
        return responses_once(self.data, pieces, shared=self.shared, common=common, **limit)

    def _contents(self, pairs: np.ndarray, starts: np.ndarray) -> list[_Piece]:
        """Each group unsplit."""
        sizes = np.diff(starts)
        if self.tokens is None or not len(pairs):
            return list(map(_Piece, starts[:-1].tolist(), starts[1:].tolist(), sizes.tolist()))
        return list(map(_Piece._make, zip(*(column.tolist() for column in self._counted(pairs, starts)))))

    def _counted(self, pairs: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Each group unsplit, with its texts and tokens: the columns of `_Piece`."""
        data, sizes = self.data, np.diff(starts)
        group = np.repeat(np.arange(len(sizes)), sizes)
        sequences = np.concatenate([data.better[pairs], data.worse[pairs]]).astype(np.int64)
        distinct = np.unique(np.concatenate([group, group]) * data.num_sequences + sequences)
        owner, sequences = np.divmod(distinct, data.num_sequences)
        first = np.searchsorted(owner, np.arange(len(sizes)))
        lengths = data.lengths[sequences]
        numbers = np.diff(np.append(first, len(owner)))
        longest, total = np.maximum.reduceat(lengths, first), np.add.reduceat(lengths, first)
        saved = np.zeros_like(total)
        if self.shared:
            common = np.array(self.shared_tokens(data.prompt[pairs[starts[:-1]]]))
            saved = np.maximum(0, (numbers - 1) * common - SHARING_OVERHEAD)
        return starts[:-1], starts[1:], sizes, numbers, longest, total - saved, saved

    def _split(self, pairs: np.ndarray, group: _Piece) -> list[_Piece]:
        """The pieces of a group over the limit: as many pairs as fit, then the next ones."""
        if self.tokens is None:
            ends = [*range(group.begin + self.pairs, group.end, self.pairs), group.end]
            return [_Piece(begin, end, end - begin) for begin, end in zip([group.begin, *ends], ends)]
        data, lengths = self.data, self.data.lengths
        (common,) = self.shared_tokens(data.prompt[pairs[group.begin : group.begin + 1]]) if self.shared else (0,)
        found: list[_Piece] = []
        seen: set[int] = set()
        longest = total = 0
        begin = end = group.begin

        def piece(end: int) -> _Piece:
            saved = max(0, (len(seen) - 1) * common - SHARING_OVERHEAD)
            return _Piece(begin, end, end - begin, len(seen), longest, total - saved, saved)

        for end in range(group.begin, group.end):
            before = piece(end)
            for sequence in (int(data.better[pairs[end]]), int(data.worse[pairs[end]])):
                if sequence not in seen:
                    seen.add(sequence)
                    total += int(lengths[sequence])
                    longest = max(longest, int(lengths[sequence]))
            if end > begin and self._cost(piece(end + 1)) > self._limit:
                found.append(before)
                begin, seen = end, {int(data.better[pairs[end]]), int(data.worse[pairs[end]])}
                total, longest = (function(int(lengths[k]) for k in seen) for function in (sum, max))
        return [*found, piece(group.end)]

    def shared_tokens(self, prompts: np.ndarray) -> list[int]:
        """
        Returns the number of tokens that the two sequences of every pair of a prompt share; computed once per prompt.

        Args:
            prompts (`np.ndarray`): Prompt numbers; each has a pair.
        """
        if self._prompts is None:
            self._prompts = PairGroups.of(self.data.prompt)
        new = np.array([k for k in np.unique(prompts).tolist() if k not in self._shared_tokens], dtype=np.int64)
        if len(new):
            data, groups = self.data, self._prompts.take(np.searchsorted(self._prompts.numbers, new))
            common = common_beginnings(data.ids, data.offsets, data.better[groups.pairs], data.worse[groups.pairs])
            self._shared_tokens.update(zip(new.tolist(), np.minimum.reduceat(common, groups.starts[:-1]).tolist()))
        return [self._shared_tokens[prompt] for prompt in prompts.tolist()]


class _Piece(NamedTuple):
    """
    Pairs of one prompt with their sequences and tokens, or the content of a micro-batch so far. Tokens are counted as by
    the limit: the savings of a shared beginning minus its cost in attention calls.
    """

    begin: int
    end: int
    num_pairs: int
    num_sequences: int = 0
    longest: int = 0
    num_tokens: int = 0
    num_saved: int = 0

    def with_piece(self, other: _Piece) -> _Piece:
        return _Piece(
            self.begin,
            self.end,
            self.num_pairs + other.num_pairs,
            self.num_sequences + other.num_sequences,
            max(self.longest, other.longest),
            self.num_tokens + other.num_tokens,
        )
