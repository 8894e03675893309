"""What the model computes at a time: distinct sequences, and which of them beats which."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .shared_layout import SharedLayout
from .tokenization import TokenizedPreferences


@dataclass
class MicroBatch:
    """
    What the model computes at a time. Sequences are numbered from 0 within the micro-batch.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, seq_length)`): Token ids, padded.
        attention_mask (`torch.LongTensor` of shape `(batch_size, seq_length)`): 1 for tokens, 0 for padding. With a
            `layout`, a stand-in of shape `(1, 1, 1, 1)`: a 4-D mask keeps the model from building its own.
        position_ids (`torch.LongTensor` of shape `(batch_size, seq_length)`, *optional*): Only if not 0, 1, 2, …
        reward_index (`torch.LongTensor` of shape `(num_sequences,)`): Position of the token that each reward is read
            at, in the flattened batch.
        pool_index (`torch.LongTensor` of shape `(num_pooled_tokens,)`, *optional*): With a `layout` and rewards that are
            read from all tokens: positions of the tokens of every sequence in the flattened batch, sequence by sequence.
        pool_lengths (`list[int]`): How many of them belong to each sequence.
        better, worse (`torch.LongTensor` of shape `(num_pairs,)`): The sequences of each pair.
        margin (`torch.FloatTensor` of shape `(num_pairs,)`, *optional*): Wanted difference of rewards, in logits.
        pair_weight (`torch.FloatTensor` of shape `(num_pairs,)`): Share of each pair in the step's mean: the weights of
            all micro-batches of all processes of one step sum to 1.
        lm_index (`torch.LongTensor` of shape `(num_lm_tokens,)`, *optional*): Predicting positions in the flattened batch.
        lm_targets (`torch.LongTensor` of shape `(num_lm_tokens,)`, *optional*): The token that follows each.
        lm_text_index (`torch.LongTensor` of shape `(num_lm_tokens,)`, *optional*): Text of each.
        num_lm_texts (`int`): Number of texts of the LM loss; they are the first sequences that count.
        num_alone (`int`): Number of last sequences that are in no pair, but in the LM loss.
        lm_weight (`float`): Share of each text in the step's mean of LM losses.
        anchor_margin (`torch.FloatTensor` of shape `(num_pairs,)`, *optional*): Difference of the general reward model's
            rewards, in logits; NaN for pairs that have none.
        anchor_weight (`float`): Share of each anchored pair in the step's mean of anchor losses.
        rows (`list[int]`): Rows of the dataset that the pairs are from.
        pairs (`list[int]`): Their numbers in the dataset.
        data (`TokenizedPreferences`, *optional*): That dataset, if the trainer does not have it: for a stream.
        num_tokens (`int`): Tokens without padding, those of a shared prefix once.
        part, num_parts (`int`): If one prompt's responses are in several consecutive micro-batches: index of this one,
            from 0, and their number. The last one has the pairs; `better` and `worse` then index the sequences of all
            of them.
        reward_grad (`torch.FloatTensor` of shape `(num_sequences,)`, *optional*): Gradient of the prompt's loss with
            respect to each reward, if computed by the first pass over its micro-batches; `prompt_loss` is that loss.
        first_passes (`int`): For a step's first micro-batch: number of passes without gradients that every process
            runs before.
        layout (`SharedLayout`, *optional*): Which tokens see which, if all sequences are in one row.
        adapters (`np.ndarray` of shape `(num_sequences,)`, *optional*): Number of the adapter of each sequence, ascending.
        adapter_tokens (`list[tuple[int, int, int]]`): Each adapter with the begin and end (exclusive) of its tokens in the
            flattened batch.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor | None
    reward_index: Tensor
    better: Tensor
    worse: Tensor
    margin: Tensor | None
    pair_weight: Tensor
    pool_index: Tensor | None = None
    pool_lengths: list[int] = dataclasses.field(default_factory=list)
    lm_index: Tensor | None = None
    lm_targets: Tensor | None = None
    lm_text_index: Tensor | None = None
    num_lm_texts: int = 0
    num_alone: int = 0
    lm_weight: float = 0.0
    anchor_margin: Tensor | None = None
    anchor_weight: float = 0.0
    rows: list[int] = dataclasses.field(default_factory=list)
    pairs: list[int] = dataclasses.field(default_factory=list)
    data: TokenizedPreferences | None = None
    num_tokens: int = 0
    part: int = 0
    num_parts: int = 1
    reward_grad: Tensor | None = None
    prompt_loss: Tensor | None = None
    first_passes: int = 0
    layout: SharedLayout | None = None
    adapters: np.ndarray | None = None
    adapter_tokens: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)

    @property
    def num_places(self) -> int:
        """Number of its pairs; two texts without a pair count as one."""
        texts = self.num_alone if self.num_parts == 1 else len(self.reward_index)
        return (len(self.pairs) if self.num_parts == 1 else 0) + (texts + 1) // 2

    def to(self, device: torch.device) -> MicroBatch:
        """Returns the micro-batch with its tensors on `device`."""
        moved = {
            item.name: _moved(value, device)
            for item in dataclasses.fields(self)
            for value in [getattr(self, item.name)]
        }
        return MicroBatch(**moved)

    def without_pairs(self) -> MicroBatch:
        """Only its sequences, without the pairs."""
        none = {"better": self.better[:0], "worse": self.worse[:0], "pair_weight": self.pair_weight[:0]}
        none |= {"margin": None, "anchor_margin": None, "rows": [], "pairs": []}
        return dataclasses.replace(self, **none)

    def model_inputs(self) -> dict[str, Any]:
        """Arguments of the backbone."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "use_cache": False}
        if self.position_ids is not None:
            inputs["position_ids"] = self.position_ids
        if self.layout is not None:
            inputs["shared_layout"] = self.layout
        return inputs


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return value.to(device) if isinstance(value, SharedLayout) else value
