"""The losses as functions of tensors, and the chunked cross-entropy. Not reduced: the trainer sums and divides once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


# Logits held at a time by default: 16 MB in fp32 on a CPU, 256 MB on a GPU, where small matrix products are slow.
LOGITS_AT_A_TIME = {"cpu": 2**22, "cuda": 2**26}


def ranking_loss(rewards: Tensor, better: Tensor, worse: Tensor, margin: Tensor | None = None) -> Tensor:
    r"""
    Negative log-likelihood of each observed preference under Bradley-Terry, in nats. Not reduced.

    Args:
        rewards (`torch.Tensor` of shape `(num_sequences,)`): Reward of each distinct sequence, in logits.
        better (`torch.LongTensor` of shape `(num_pairs,)`): Index into `rewards` of the preferred sequence of each pair.
        worse (`torch.LongTensor` of shape `(num_pairs,)`): Index of the sequence it was preferred to.
        margin (`torch.Tensor` of shape `(num_pairs,)`, *optional*): Wanted difference of the two rewards, in logits.

    Returns:
        `torch.Tensor` of shape `(num_pairs,)`: `log(2)` if the two rewards are equal and there is no margin.

    Raises:
        `ValueError`: if `better` and `worse` differ in length.

    References:
        - Bradley-Terry reward model: https://huggingface.co/papers/2203.02155, Eq. 1
        - Margin: https://huggingface.co/papers/2307.09288, Eq. 2
    """
    if better.shape != worse.shape:
        raise ValueError(f"`better` has {better.numel()} pairs, but `worse` has {worse.numel()}.")
    difference = rewards[better] - rewards[worse]
    if margin is not None:
        difference = difference - margin
    return -F.logsigmoid(difference)


def centering_loss(rewards: Tensor, better: Tensor, worse: Tensor) -> Tensor:
    r"""
    Squared sum of the two rewards of each pair: pulls the mean reward towards zero. Not reduced.

    Args:
        rewards (`torch.Tensor` of shape `(num_sequences,)`): Reward of each distinct sequence, in logits.
        better (`torch.LongTensor` of shape `(num_pairs,)`): Index of the preferred sequence of each pair.
        worse (`torch.LongTensor` of shape `(num_pairs,)`): Index of the other one.

    Returns:
        `torch.Tensor` of shape `(num_pairs,)`, in squared logits.

    References:
        - https://huggingface.co/papers/2312.09244, Eq. 2
    """
    return (rewards[better] + rewards[worse]) ** 2


def anchor_loss(rewards: Tensor, better: Tensor, worse: Tensor, anchor_margin: Tensor) -> Tensor:
    r"""
    Cross-entropy of each pair's win probability against that of another reward model, in nats. Not reduced.

    A Bradley-Terry reward model predicts that the first text wins with probability sigmoid(margin). The loss is lowest
    where both models agree, also where they are unsure, and ignores the label.

    Args:
        rewards (`torch.Tensor` of shape `(num_sequences,)`): Reward of each distinct sequence, in logits.
        better (`torch.LongTensor` of shape `(num_pairs,)`): Index of the preferred sequence of each pair.
        worse (`torch.LongTensor` of shape `(num_pairs,)`): Index of the other one.
        anchor_margin (`torch.Tensor` of shape `(num_pairs,)`): The other model's margin, in logits; NaN for pairs that
            it has not scored.

    Returns:
        `torch.Tensor` of shape `(num_pairs,)`: 0 where `anchor_margin` is NaN.

    References:
        - Distillation with soft targets: https://huggingface.co/papers/1503.02531, section 2
    """
    judged = ~torch.isnan(anchor_margin)
    margin = rewards[better[judged]] - rewards[worse[judged]]
    loss = torch.zeros_like(anchor_margin, dtype=rewards.dtype)
    target = torch.sigmoid(anchor_margin[judged].to(margin.dtype))
    loss[judged] = F.binary_cross_entropy_with_logits(margin, target, reduction="none")
    return loss


def text_cross_entropy(
    hidden_states: Tensor,
    weight: Tensor,
    targets: Tensor,
    text_index: Tensor,
    num_texts: int,
    *,
    bias: Tensor | None = None,
    weight_copy: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    r"""
    Mean next-token cross-entropy of each text, in nats per token, without ever holding the logits of all tokens.

    Only the vocabulary logits of `chunk_size` tokens exist at a time; their gradient is computed before they are freed.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_tokens, hidden_size)`): Final hidden state at each predicting token.
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`): Weight of the language modeling head.
        targets (`torch.LongTensor` of shape `(num_tokens,)`): The token that follows each predicting token.
        text_index (`torch.LongTensor` of shape `(num_tokens,)`): Which text each token belongs to.
        num_texts (`int`): Number of texts.
        bias (`torch.Tensor` of shape `(vocab_size,)`, *optional*): Bias of the head.
        weight_copy (`torch.Tensor`, *optional*): `weight` in the autocast dtype, to avoid a cast here.
        softcap (`float`, *optional*): Logits are `softcap * tanh(logits / softcap)` (Gemma 2).
        logit_scale (`float`): Factor on the logits (Cohere, Granite).
        chunk_size (`int`, *optional*): Tokens whose logits are held at a time; by default 16 MB of logits on a CPU.

    Returns:
        `torch.Tensor` of shape `(num_texts,)`, fp32. A text without tokens gives 0.

    References:
        - Language modeling term of a preference model: https://huggingface.co/papers/2309.03126
    """

    if not targets.numel():
        return torch.zeros(num_texts, dtype=torch.float32, device=hidden_states.device)
    counts = torch.bincount(text_index, minlength=num_texts).clamp(min=1)
    chunk_size = chunk_size or default_chunk_size(weight.shape[0], weight.device)
    options = (softcap, logit_scale, chunk_size, None if weight_copy is None else weight_copy.detach())
    needs_grad = torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad)
    return ChunkedCrossEntropy.apply(
        hidden_states, weight, bias, targets, text_index, 1.0 / counts[text_index], num_texts, options, needs_grad
    )


def default_chunk_size(vocab_size: int, device: torch.device) -> int:
    """Tokens whose logits are held at a time."""
    return max(16, LOGITS_AT_A_TIME.get(device.type, 2**24) // vocab_size)


class ChunkedCrossEntropy(torch.autograd.Function):
    """
    Sum over the tokens of each text of their cross-entropy times `token_weight`.

    The gradient of a chunk is computed right away, while its logits exist, for an upstream gradient of 1 for every text;
    the backward pass scales it. If the texts' upstream gradients differ, which no loss of this toolkit causes, the
    logits are recomputed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        text_index: Tensor,
        token_weight: Tensor,
        num_texts: int,
        options: tuple[float | None, float, int, Tensor | None],
        with_grad: bool,
    ) -> Tensor:
        losses, grads = _chunks(hidden, weight, bias, targets, token_weight, options, with_grad)
        device = hidden.device.type
        ctx.autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        ctx.num_texts, ctx.options = num_texts, options
        if with_grad:
            ctx.save_for_backward(hidden, weight, bias, targets, text_index, token_weight, *grads)
        return losses.new_zeros(num_texts).index_add(0, text_index, losses * token_weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, text_index, token_weight, *grads = ctx.saved_tensors
        if bool((grad == grad[0]).all()):
            scaled = [None if one is None else one * grad[0].to(one.dtype) for one in grads]
        else:
            with torch.autocast(hidden.device.type, ctx.autocast, enabled=ctx.autocast is not None):
                share = token_weight * grad[text_index]
                _, scaled = _chunks(hidden, weight, bias, targets, share, ctx.options, True)
        return (*scaled, *[None] * 6)


def _chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    share: Tensor,
    options: tuple[float | None, float, int, Tensor | None],
    with_grad: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Losses of all tokens, and the gradients of their sum weighted by `share` for hidden states, weight and bias."""
    softcap, scale, chunk_size, copy = options
    multiplied = weight if copy is None else copy
    losses = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
    hidden_grad = torch.empty_like(hidden) if with_grad else None
    weight_grad = torch.zeros_like(weight) if with_grad and weight.requires_grad else None
    bias_grad = torch.zeros_like(bias) if with_grad and bias is not None else None
    for start in range(0, targets.numel(), chunk_size):
        part = slice(start, start + chunk_size)
        inputs = hidden[part].to(weight.dtype)
        logits = F.linear(inputs, multiplied, bias).float()
        if scale != 1.0:
            logits *= scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        column = targets[part].unsqueeze(1)
        log_sum = torch.logsumexp(logits, dim=1)
        losses[part] = log_sum - logits.gather(1, column).squeeze(1)
        if not with_grad:
            continue
        slope = None if softcap is None else 1 - (logits / softcap) ** 2
        grad = logits.sub_(log_sum.unsqueeze(1)).exp_()  # the logits are not needed again
        grad.scatter_add_(1, column, -torch.ones_like(column, dtype=grad.dtype))
        grad *= (share[part] * scale).unsqueeze(1)
        if slope is not None:
            grad *= slope
        grad = grad.to(weight.dtype)
        hidden_grad[part] = (grad @ multiplied).to(hidden.dtype)
        if weight_grad is not None:
            weight_grad += grad.T @ inputs
        if bias_grad is not None:
            bias_grad += grad.sum(0)
    return losses, [hidden_grad, weight_grad, bias_grad]
