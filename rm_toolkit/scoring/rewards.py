"""Rewards of all sequences of a dataset: each distinct one once, longest first, divided over the processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..batches.collator import PreferenceCollator
from ..batches.micro_batch import MicroBatch
from ..batches.prefixes import clusters, prefix_order
from ..batches.tokenization import TokenizedPreferences
from ..errors import InputError
from ..models.out_of_memory import free_memory, is_out_of_memory
from ..output.progress import no_bar


# Not inference mode: ZeRO-3 keeps small gathered parameters for the next training step.
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
    mix_adapters: bool = True,
    on_batch: Callable[[int], None] | None = None,
    before_each: Callable[[int], None] | None = None,
    on_out_of_memory: Callable[[int], None] | None = None,
) -> np.ndarray:
    """
    Args:
        forward (`Callable`): The (wrapped) reward model, in evaluation mode.
        data (`TokenizedPreferences`): The sequences.
        collator (`PreferenceCollator`): Builds the batches.
        tokens_per_batch (`int`): Tokens that one process computes at once, including padding; a shared prompt counts once.
        device (`torch.device`): The device of the batches.
        accelerator (`Accelerator`, *optional*): Divides the work; every process gets all rewards.
        show_progress (`bool`): Whether to draw a progress bar.
        mix_adapters (`bool`): Whether a batch may hold sequences of several adapters (`data.adapter`).
        on_batch (`Callable`, *optional*): Called with the number of sequences after each batch.
        before_each (`Callable`, *optional*): Called with the number of each turn, on all processes; may raise.
        on_out_of_memory (`Callable`, *optional*): Called with the number of sequences of a batch that does not fit;
            its halves are computed one after the other. Not if several processes compute a forward pass together.

    Returns:
        `np.ndarray` of shape `(num_sequences,)`, fp32: Reward of each sequence, in logits.
    """
    num_processes = accelerator.num_processes if accelerator else 1
    process_index = accelerator.process_index if accelerator else 0
    if collator.layout == "shared":
        batches = shared_batches(data, tokens_per_batch)
    else:
        batches = length_batches(data.lengths, tokens_per_batch)
    if data.adapter is not None:
        batches = adapter_batches(batches, data.adapter, mix_adapters)
    rewards = torch.zeros(data.num_sequences, dtype=torch.float32, device=device)
    # Every process computes the same number of batches: a sharded model needs all of them in each forward pass.
    turns = -(-len(batches) // num_processes)
    empty = np.zeros(0, dtype=np.int64)
    batches_of = _Batches(forward, data, collator, device, on_out_of_memory)
    for turn in tqdm(
        range(turns), desc=f"Evaluating {data.name}", disable=no_bar(show_progress), leave=False, delay=2
    ):
        if before_each is not None:
            before_each(turn)
        number = turn * num_processes + process_index
        sequences = batches[number] if number < len(batches) else empty
        rewards[torch.from_numpy(sequences).to(device)] = batches_of.rewards(sequences)
        if on_batch is not None:
            on_batch(len(sequences))
    if num_processes > 1:
        rewards = accelerator.reduce(rewards, reduction="sum")
    return rewards.cpu().numpy()


class _Batches:
    """
    Computes batches; one that does not fit is computed in halves, and later ones of that size are halved at once.
    """

    def __init__(
        self,
        forward: Callable[[MicroBatch], tuple[torch.Tensor, torch.Tensor]],
        data: TokenizedPreferences,
        collator: PreferenceCollator,
        device: torch.device,
        on_out_of_memory: Callable[[int], None] | None,
    ):
        self.forward, self.data, self.collator, self.device = forward, data, collator, device
        self.on_out_of_memory = on_out_of_memory
        self.too_many: int | None = None  # tokens

    def rewards(self, sequences: np.ndarray) -> torch.Tensor:
        """Rewards of some sequences, `torch.Tensor` of shape `(num_sequences,)`."""
        batch = self.collator.sequences(self.data, sequences)
        tokens, may_halve = batch.input_ids.numel(), self.on_out_of_memory is not None and len(sequences) > 1
        if not (may_halve and self.too_many is not None and tokens >= self.too_many):
            try:
                values, _ = self.forward(batch.to(self.device))
                return values[: len(sequences)]
            except RuntimeError as error:
                if not (may_halve and is_out_of_memory(error)):
                    raise
            free_memory()
            self.too_many = tokens
            self.on_out_of_memory(len(sequences))
        half = len(sequences) // 2
        return torch.cat([self.rewards(sequences[:half]), self.rewards(sequences[half:])])


def length_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """
    Groups sequences of similar length, longest first, so that out-of-memory errors occur at the start.

    Args:
        lengths (`np.ndarray` of shape `(num_sequences,)`): Tokens of each sequence.
        tokens_per_batch (`int`): Most padded tokens per batch; a single longer sequence still makes one.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        count = max(1, tokens_per_batch // max(1, int(lengths[order[begin]])))
        batches.append(np.sort(order[begin : begin + count]))
        begin += count
    return batches


def shared_batches(data: TokenizedPreferences, tokens_per_batch: int) -> list[np.ndarray]:
    """
    Groups sequences so that those with a long shared prefix are computed together, longest first.

    Args:
        data (`TokenizedPreferences`): The sequences.
        tokens_per_batch (`int`): Most tokens per batch, counting a shared prefix once; a single longer sequence still
            makes one, and a cluster that does not fit is split.
    """
    lengths = data.lengths
    sequences = [data.sequence(k) for k in range(data.num_sequences)]
    ordered, common = prefix_order(sequences, data.adapter)
    order = np.array(ordered, dtype=np.int64)
    pieces: list[tuple[int, int, np.ndarray]] = []  # (longest sequence, tokens, sequences)
    for first, last, shared in clusters(common) if len(order) else []:
        size, begin = shared, first
        for position in range(first, last):
            rest = int(lengths[order[position]]) - shared
            if position > begin and size + rest > tokens_per_batch:
                members = order[begin:position]
                pieces.append((int(lengths[members].max()), size, members))
                size, begin = shared, position
            size += rest
        members = order[begin:last]
        pieces.append((int(lengths[members].max()), size, members))
    batches, current, used = [], [], 0
    # Without padding any order costs the same: sort by adapter, so that a batch has few of them.
    adapters = np.zeros(len(lengths), dtype=np.int64) if data.adapter is None else data.adapter
    for _, size, members in sorted(pieces, key=lambda piece: (adapters[piece[2][0]], -piece[0])):
        if current and used + size > tokens_per_batch:
            batches.append(np.concatenate(current))
            current, used = [], 0
        current.append(members)
        used += size
    return batches + ([np.concatenate(current)] if current else [])


def adapter_batches(batches: list[np.ndarray], adapter: np.ndarray, mixed: bool) -> list[np.ndarray]:
    """
    Orders the sequences of each batch by their adapters.

    Args:
        batches (`list[np.ndarray]`): Indices of the sequences of each batch.
        adapter (`np.ndarray` of shape `(num_sequences,)`): Adapter of each sequence.
        mixed (`bool`): Whether a batch may hold several adapters; if not, it is split.
    """
    ordered = [batch[np.argsort(adapter[batch], kind="stable")] for batch in batches]
    if mixed:
        return ordered
    return [part for batch in ordered for part in np.split(batch, np.flatnonzero(np.diff(adapter[batch])) + 1)]


def check_finite(rewards: np.ndarray, model: torch.nn.Module, name: str | None = None) -> None:
    """
    Refuses rewards that are not finite.

    Args:
        rewards (`np.ndarray` of shape `(num_texts,)`): In logits.
        model (`RewardModel`): The model that gave them.
        name (`str`, *optional*): Where its weights come from; default: where it was loaded from.

    Raises:
        `InputError`: with their number and the precision they were computed in.
    """
    if not np.isfinite(rewards).all():
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        raise InputError(
            f"the rewards of {int((~np.isfinite(rewards)).sum()):,} of {len(rewards):,} texts are not finite (NaN or inf): "
            f"the weights of '{name or model.name_or_path}' have such values, or overflow in {dtype}. Load the model in "
            "float32, or restore its safetensors."
        )
