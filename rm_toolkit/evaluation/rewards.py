"""Rewards of all sequences of a data set: each distinct one once, longest first, shared out over the processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..data.collator import MicroBatch, PreferenceCollator
from ..data.tokenization import TokenizedPreferences


@torch.no_grad()
def compute_rewards(
    forward: Callable[[MicroBatch], tuple[torch.Tensor, torch.Tensor]],
    data: TokenizedPreferences,
    collator: PreferenceCollator,
    *,
    tokens_per_batch: int,
    device: torch.device,
    accelerator: Accelerator | None = None,
    show_progress: bool = True,
) -> np.ndarray:
    """
    Args:
        forward (`Callable`): The (wrapped) reward model, in evaluation mode.
        data (`TokenizedPreferences`): The sequences.
        collator (`PreferenceCollator`): Builds the batches.
        tokens_per_batch (`int`): Tokens that one process computes at once, padding included.
        device (`torch.device`): Where to compute.
        accelerator (`Accelerator`, *optional*): Shares the work; every process gets all rewards.
        show_progress (`bool`): Whether to draw a progress bar.

    Returns:
        `np.ndarray` of shape `(num_sequences,)`, fp32: Reward of each sequence, in logits.
    """
    num_processes = accelerator.num_processes if accelerator else 1
    process_index = accelerator.process_index if accelerator else 0
    batches = length_batches(data.lengths, tokens_per_batch)
    rewards = torch.zeros(data.num_sequences, dtype=torch.float32, device=device)
    # Every process takes the same number of turns: a sharded model needs all of them in each forward pass.
    turns = -(-len(batches) // num_processes)
    empty = np.zeros(0, dtype=np.int64)
    for turn in tqdm(range(turns), desc=f"Evaluating {data.name}", disable=not show_progress, leave=False, delay=2):
        number = turn * num_processes + process_index
        sequences = batches[number] if number < len(batches) else empty
        values, _ = forward(collator.sequences(data, sequences).to(device))
        rewards[torch.from_numpy(sequences).to(device)] = values[: len(sequences)]
    if num_processes > 1:
        rewards = accelerator.reduce(rewards, reduction="sum")
    return rewards.cpu().numpy()


def length_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """
    Groups sequences of like length, longest first, so that what does not fit shows at once.

    Args:
        lengths (`np.ndarray` of shape `(num_sequences,)`): Tokens of each sequence.
        tokens_per_batch (`int`): Padded tokens of a batch at most; a single longer sequence still makes one.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        count = max(1, tokens_per_batch // max(1, int(lengths[order[begin]])))
        batches.append(np.sort(order[begin : begin + count]))
        begin += count
    return batches
