"""One micro-batch computed with fake tensors: bytes kept for the backward pass, and the peak."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from ... import losses
from ...batches.collator import PreferenceCollator
from ...batches.micro_batch import MicroBatch
from ...batches.tokenization import TokenizedPreferences
from ...losses import ranking_loss
from ...models.compute_copies import ComputeCopies
from ...models.reward_model import RewardModel
from .memory_tracker import PeakTracker


@dataclass
class StepMemory:
    """
    Bytes of one micro-batch, without parameters, optimizer and earlier gradients.

    Args:
        kept (`int`): Bytes at the end of the forward pass, kept for the backward pass.
        peak (`int`): Peak, with gradients that the backward pass creates.
        gradients (`int`): Bytes of the gradients afterwards.
    """

    kept: int
    peak: int
    gradients: int


def largest_batch(
    *,
    pairs: int,
    text_length: int,
    layout: str,
    vocab_size: int,
    lm_loss_on: str | None = None,
    tokens: int | None = None,
    pools_all: bool = False,
) -> MicroBatch:
    """
    The largest micro-batch that a run can meet: all texts `text_length` tokens long, with nothing in common.

    Args:
        pairs (`int`): Pairs of the micro-batch; not used if `tokens` is given.
        text_length (`int`): Tokens of each text.
        layout (`str`): `"plain"` or `"shared"`.
        vocab_size (`int`): Number of token ids.
        lm_loss_on (`str`, *optional*): `"text"` or `"completion"`: the LM loss counts the better text of each pair.
        tokens (`int`, *optional*): Tokens of the micro-batch (`max_tokens_per_batch`).
        pools_all (`bool`): Whether rewards are read from all tokens.
    """
    if tokens is not None:
        pairs = max(1, tokens // (2 * text_length))
    rng = np.random.default_rng(0)
    number = 2 * pairs
    ids = rng.integers(3, max(4, vocab_size), (number, text_length), dtype=np.int32)
    ids[:, 0] = np.arange(number) % vocab_size  # no shared prefix
    pair = np.arange(pairs)
    data = TokenizedPreferences(
        name="plan",
        ids=ids.reshape(-1),
        offsets=np.arange(number + 1) * text_length,
        completion_start=np.full(number, text_length // 2),
        better=2 * pair,
        worse=2 * pair + 1,
        row=pair,
        prompt=pair,
        margin=None,
        lm_better=np.ones(pairs, dtype=bool),
        lm_worse=np.zeros(pairs, dtype=bool),
        first_two=np.zeros((0, 2), dtype=np.int32),
        lm_target_eos=2,
    )
    collator = PreferenceCollator(0, lm_loss_on=lm_loss_on, layout=layout, pools_all=pools_all)
    return collator.pairs(data, pair, np.full(pairs, 1 / pairs), 2 * pair, 1 / pairs)


def simulate(
    model: RewardModel,
    batch: MicroBatch,
    mode: FakeTensorMode,
    *,
    autocast: torch.dtype | None,
    casts_kept: bool,
    cast_once: bool,
    gpu: bool,
    accumulated: bool,
) -> StepMemory:
    """
    Runs the forward and backward pass of a micro-batch on fake tensors, without computing anything.

    Args:
        model (`RewardModel`): From [`~rm_toolkit.training.plan.skeleton.build_skeleton`].
        batch (`MicroBatch`): The micro-batch.
        mode (`FakeTensorMode`): The mode that the model was built under.
        autocast (`torch.dtype`, *optional*): The 16-bit type of autocast, if it is on.
        casts_kept (`bool`): Whether the 16-bit weights of the forward pass are kept for the backward pass; otherwise
            the backward pass casts them again, layer by layer.
        cast_once (`bool`): Whether they are made once per step and kept until its end.
        gpu (`bool`): Whether the run is on a GPU, where more logits are in memory at a time.
        accumulated (`bool`): Whether gradients of an earlier micro-batch exist already.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    again = contextlib.nullcontext() if casts_kept or autocast is None else _casting_again()
    once = cast_once and autocast is not None
    copies = ComputeCopies(model, autocast).used(keep_frozen=True) if once else contextlib.nullcontext()
    with mode, _logits_of(gpu), again:
        batch = _fake(batch, mode)
        known = [*model.parameters(), *model.buffers(), *_tensors(batch)]
        if accumulated:
            for parameter in trainable:
                parameter.grad = torch.zeros_like(parameter)
            known += [parameter.grad for parameter in trainable]
        with PeakTracker(known) as tracker, copies:
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                rewards, lm_losses = model(batch)
                loss = (batch.pair_weight * ranking_loss(rewards, batch.better, batch.worse)).sum() + lm_losses.sum()
            kept = tracker.now
            loss.backward()
            del rewards, lm_losses, loss
        gradients = sum(parameter.grad.nbytes for parameter in trainable if parameter.grad is not None)
        for parameter in trainable:
            parameter.grad = None
    return StepMemory(kept, tracker.peak, 0 if accumulated else gradients)


def _tensors(batch: MicroBatch) -> list[Tensor]:
    values = [getattr(batch, item.name) for item in dataclasses.fields(batch)]
    return [value for value in values if isinstance(value, Tensor)]


def _fake(batch: MicroBatch, mode: FakeTensorMode) -> MicroBatch:
    values = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch)}
    moved = {name: mode.from_tensor(value) if isinstance(value, Tensor) else value for name, value in values.items()}
    if batch.layout is not None and batch.layout.needed is not None:
        moved["layout"] = dataclasses.replace(batch.layout, needed=mode.from_tensor(batch.layout.needed))
    return MicroBatch(**moved)


class _CastAgain(torch.autograd.Function):
    """How DeepSpeed replaces `torch.nn.functional.linear` under ZeRO-3: it keeps the fp32 weight, not its cast."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.dtype, ctx.with_bias = torch.get_autocast_dtype("cpu"), bias is not None
        output = hidden.matmul(weight.t())
        return output if bias is None else output + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        with torch.autocast("cpu", ctx.dtype):
            of_hidden = gradient.matmul(weight) if ctx.needs_input_grad[0] else None
            of_weight = flat.t().matmul(hidden.reshape(-1, hidden.shape[-1])) if ctx.needs_input_grad[1] else None
        return of_hidden, of_weight, flat.sum(0) if ctx.with_bias and ctx.needs_input_grad[2] else None


@contextlib.contextmanager
def _casting_again() -> Iterator[None]:
    linear = torch.nn.functional.linear
    torch.nn.functional.linear = lambda hidden, weight, bias=None: _CastAgain.apply(hidden, weight, bias)
    try:
        yield
    finally:
        torch.nn.functional.linear = linear


@contextlib.contextmanager
def _logits_of(gpu: bool) -> Iterator[None]:
    """Fake tensors are on a CPU; for a GPU, makes as many logits be in memory at a time as on a GPU."""
    table = losses.LOGITS_AT_A_TIME
    before = table["cpu"]
    table["cpu"] = table["cuda"] if gpu else before
    try:
        yield
    finally:
        table["cpu"] = before
