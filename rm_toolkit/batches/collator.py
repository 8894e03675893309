"""Groups of responses -> one micro-batch: each distinct sequence once, and which sequence beats which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .many_responses import ResponsePart
from .micro_batch import MicroBatch
from .prefixes import flat_row
from .tokenization import TokenizedPreferences


# (number of a sequence in the micro-batch, positions in it) -> their places in the flattened batch
PositionIndex = Callable[[int, np.ndarray], np.ndarray]


@dataclass
class PreferenceCollator:
    """
    Builds micro-batches from sequences and pairs.

    Args:
        pad_token_id (`int`): Id to pad with.
        padding_side (`str`): `"right"` or `"left"`; the rewards are the same.
        pad_to_multiple_of (`int`, *optional*): Padded length is a multiple of this.
        lm_loss_on (`str`, *optional*): `"text"` or `"completion"`; `None` builds no LM targets.
        layout (`str`): `"plain"` (one padded row per sequence) or `"shared"` (one row without padding, in which shared
            prefixes occur once).
        pools_all (`bool`): Whether a reward is read from all tokens of its sequence (`average`, `max`), not from the last.
    """

    pad_token_id: int
    padding_side: str = "right"
    pad_to_multiple_of: int | None = None
    lm_loss_on: str | None = None
    layout: str = "plain"
    pools_all: bool = False

    def pairs(
        self,
        data: TokenizedPreferences,
        pairs: np.ndarray,
        pair_weight: np.ndarray,
        lm_sequences: np.ndarray,
        lm_weight: float,
        anchor_weight: float = 0.0,
        part: ResponsePart | None = None,
    ) -> MicroBatch:
        """
        The micro-batch of some pairs; an empty selection gives one token with weight 0.

        Args:
            data (`TokenizedPreferences`): Their data.
            pairs (`np.ndarray` of shape `(num_pairs,)`): Numbers of the pairs.
            pair_weight (`np.ndarray` of shape `(num_pairs,)`): Their shares in the step's mean.
            lm_sequences (`np.ndarray`): Sequences whose LM loss is counted here, in these pairs or not.
            lm_weight (`float`): Share of each of them in the step's mean.
            anchor_weight (`float`): Share of each pair with an anchor in the step's mean of anchor losses.
            part (`ResponsePart`, *optional*): The sequences, if they are not those of the pairs and of the LM loss.
        """
        better, worse = data.better[pairs], data.worse[pairs]
        if part is None:
            sequences, inverse = np.unique(np.concatenate([better, worse]), return_inverse=True)
            alone = np.setdiff1d(lm_sequences, sequences) if self.lm_loss_on is not None else sequences[:0]
            batch = self.sequences(data, np.concatenate([sequences, alone]), lm_sequences)
            batch.num_alone = len(alone)
        else:
            inverse = part.places(np.concatenate([better, worse]))
            batch = self.sequences(data, part.sequences, lm_sequences)
            batch.part, batch.num_parts = part.number, part.num_parts
        batch.better = torch.from_numpy(inverse[: len(better)]).long()
        batch.worse = torch.from_numpy(inverse[len(better) :]).long()
        batch.pair_weight = torch.from_numpy(pair_weight).float()
        if data.margin is not None:
            batch.margin = torch.from_numpy(data.margin[pairs])
        if data.anchor_margin is not None:
            batch.anchor_margin = torch.from_numpy(data.anchor_margin[pairs])
            batch.anchor_weight = anchor_weight
        batch.lm_weight = lm_weight if len(lm_sequences) else 0.0
        batch.rows, batch.pairs = data.row[pairs].tolist(), pairs.tolist()
        return batch

    def sequences(
        self, data: TokenizedPreferences, sequences: np.ndarray, lm_sequences: np.ndarray | None = None
    ) -> MicroBatch:
        """
        The micro-batch of some sequences without pairs: for evaluation and scoring.

        Args:
            data (`TokenizedPreferences`): Their data.
            sequences (`np.ndarray` of shape `(num_sequences,)`): Their numbers, in ascending order of the adapters where
                the data have such; none gives one token.
            lm_sequences (`np.ndarray`, *optional*): Those among them whose LM loss is wanted.
        """
        ids = [data.sequence(k) for k in sequences] or [np.array([self.pad_token_id], dtype=np.int32)]
        adapters = data.adapter[sequences] if data.adapter is not None and len(sequences) else None
        batch, index = self._flat(ids, adapters) if self.layout == "shared" else self._padded(ids, adapters)
        last = [index(k, np.array([len(piece) - 1])) for k, piece in enumerate(ids)]
        batch.reward_index = torch.from_numpy(np.concatenate(last)[: len(sequences)])
        if not len(sequences):
            batch.num_tokens = 0
        if self.lm_loss_on is not None and lm_sequences is not None:
            self._add_lm_targets(batch, data, sequences, lm_sequences, index)
        if batch.layout is not None:
            rewards = batch.reward_index
            if self.pools_all:
                rewards = self._add_pooled(batch, ids[: len(sequences)], index)
            read = [rewards] if batch.lm_index is None else [rewards, batch.lm_index]
            batch.layout.needed = torch.unique(torch.cat(read))
        return batch

    def _add_pooled(self, batch: MicroBatch, ids: list[np.ndarray], index: PositionIndex) -> torch.Tensor:
        """Adds the places of the tokens of each sequence, and returns them; a shared prefix belongs to several sequences."""
        places = [index(k, np.arange(len(piece))) for k, piece in enumerate(ids)]
        batch.pool_index = torch.from_numpy(np.concatenate(places or [np.zeros(0)])).long()
        batch.pool_lengths = [len(piece) for piece in ids]
        return batch.pool_index

    def _flat(self, ids: list[np.ndarray], adapters: np.ndarray | None) -> tuple[MicroBatch, PositionIndex]:
        row = flat_row(ids, adapters)
        batch = _without_pairs(
            input_ids=torch.from_numpy(row.input_ids)[None],
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
            position_ids=torch.from_numpy(row.position_ids)[None],
            num_tokens=len(row.input_ids),
            layout=row.layout,
        )
        _set_adapters(batch, adapters, row.prefix_start)
        return batch, row.index

    def _padded(self, ids: list[np.ndarray], adapters: np.ndarray | None) -> tuple[MicroBatch, PositionIndex]:
        lengths = np.array([len(piece) for piece in ids])
        width = int(lengths.max())
        if self.pad_to_multiple_of:
            width = -(-width // self.pad_to_multiple_of) * self.pad_to_multiple_of
        input_ids = np.full((len(ids), width), self.pad_token_id, dtype=np.int64)
        first = width - lengths if self.padding_side == "left" else np.zeros_like(lengths)
        column = np.arange(width)
        mask = (column >= first[:, None]) & (column < (first + lengths)[:, None])
        input_ids[mask] = np.concatenate(ids)
        row_start = np.arange(len(ids)) * width + first
        positions = np.clip(np.cumsum(mask, axis=1) - 1, 0, None) if self.padding_side == "left" else None
        batch = _without_pairs(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(mask.astype(np.int64)),
            position_ids=None if positions is None else torch.from_numpy(positions),
            num_tokens=int(lengths.sum()),
        )
        _set_adapters(batch, adapters, np.arange(len(ids)) * width)
        return batch, lambda sequence, position: row_start[sequence] + position

    def _add_lm_targets(
        self,
        batch: MicroBatch,
        data: TokenizedPreferences,
        sequences: np.ndarray,
        lm_sequences: np.ndarray,
        index: PositionIndex,
    ) -> None:
        where, targets, texts = [], [], []
        order = np.argsort(sequences, kind="stable")
        places = order[np.searchsorted(sequences, lm_sequences, sorter=order)].tolist()
        for text, (place, sequence) in enumerate(zip(places, lm_sequences)):
            ids = data.sequence(sequence)
            begin = 1 if self.lm_loss_on == "text" else max(1, int(data.completion_start[sequence]))
            target = ids[begin:]
            predicting = np.arange(begin - 1, len(ids) - 1)
            if data.lm_target_eos is not None and ids[-1] != data.lm_target_eos:
                target = np.append(target, data.lm_target_eos)
                predicting = np.append(predicting, len(ids) - 1)
            where.append(index(place, predicting))
            targets.append(target)
            texts.append(np.full(len(target), text))
        if not where:  # one token with weight 0: the head takes part in every backward pass of every process
            where, targets, texts = [np.zeros(1)], [np.zeros(1)], [np.zeros(1)]
        batch.lm_index = torch.from_numpy(np.concatenate(where)).long()
        batch.lm_targets = torch.from_numpy(np.concatenate(targets)).long()
        batch.lm_text_index = torch.from_numpy(np.concatenate(texts)).long()
        batch.num_lm_texts = max(len(lm_sequences), 1)


def _set_adapters(batch: MicroBatch, adapters: np.ndarray | None, begins: np.ndarray) -> None:
    """Records where the (contiguous) tokens of each adapter are; `begins` has the start of each sequence."""
    if adapters is None:
        return
    batch.adapters = adapters
    first = np.flatnonzero(np.diff(adapters, prepend=adapters[0] - 1))
    start = np.minimum.reduceat(begins, first).tolist()
    end = [*start[1:], batch.input_ids.numel()]
    batch.adapter_tokens = list(zip(adapters[first].tolist(), start, end))


def _without_pairs(**fields: Any) -> MicroBatch:
    empty = torch.zeros(0, dtype=torch.long)
    pairs = {"better": empty, "worse": empty, "margin": None, "pair_weight": torch.zeros(0)}
    return MicroBatch(reward_index=empty, **pairs, **fields)
