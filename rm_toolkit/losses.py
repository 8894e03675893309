"""The losses as pure functions of tensors. None of them reduces: the trainer sums, and divides once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .cross_entropy import ChunkedCrossEntropy, default_chunk_size


def ranking_loss(rewards: Tensor, better: Tensor, worse: Tensor, margin: Tensor | None = None) -> Tensor:
    r"""
    Negative log-likelihood of each observed preference under Bradley-Terry, in nats. Not reduced.

    Args:
        rewards (`torch.Tensor` of shape `(num_sequences,)`): Reward of each distinct sequence, in logits.
        better (`torch.LongTensor` of shape `(num_pairs,)`): Index into `rewards` of the preferred sequence of each pair.
        worse (`torch.LongTensor` of shape `(num_pairs,)`): Index of the sequence it was preferred to.
        margin (`torch.Tensor` of shape `(num_pairs,)`, *optional*): Wanted distance of the two rewards, in logits.

    Returns:
        `torch.Tensor` of shape `(num_pairs,)`: `log(2)` where the two rewards are equal and no margin is asked for.

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

    A Bradley-Terry reward model says that the first text wins with probability sigmoid(margin). The loss is least where
    both models say the same, also where they are unsure, and does not follow the label.

    Args:
        rewards (`torch.Tensor` of shape `(num_sequences,)`): Reward of each distinct sequence, in logits.
        better (`torch.LongTensor` of shape `(num_pairs,)`): Index of the preferred sequence of each pair.
        worse (`torch.LongTensor` of shape `(num_pairs,)`): Index of the other one.
        anchor_margin (`torch.Tensor` of shape `(num_pairs,)`): The other model's margin, in logits; NaN for pairs that
            it has not judged.

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
    softcap: float | None = None,
    logit_scale: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    r"""
    Mean next-token cross-entropy of each text, in nats a token, without ever holding the logits of all tokens.

    The vocabulary logits of `chunk_size` tokens exist at a time, and their gradient is taken while they are there.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_tokens, hidden_size)`): Final hidden state at each predicting token.
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`): The language modelling head.
        targets (`torch.LongTensor` of shape `(num_tokens,)`): The token that follows each predicting token.
        text_index (`torch.LongTensor` of shape `(num_tokens,)`): Which text each token belongs to.
        num_texts (`int`): Number of texts.
        bias (`torch.Tensor` of shape `(vocab_size,)`, *optional*): Bias of the head.
        softcap (`float`, *optional*): Logits are `softcap * tanh(logits / softcap)` (Gemma 2).
        logit_scale (`float`): Factor on the logits (Cohere, Granite).
        chunk_size (`int`, *optional*): Tokens whose logits are held at a time; by default 16 MB of logits on a CPU.

    Returns:
        `torch.Tensor` of shape `(num_texts,)`, fp32. A text without tokens gives 0.

    References:
        - Language modelling term of a preference model: https://huggingface.co/papers/2309.03126
    """

    if not targets.numel():
        return torch.zeros(num_texts, dtype=torch.float32, device=hidden_states.device)
    counts = torch.bincount(text_index, minlength=num_texts).clamp(min=1)
    options = (softcap, logit_scale, chunk_size or default_chunk_size(weight.shape[0], weight.device))
    needs_grad = torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad)
    return ChunkedCrossEntropy.apply(
        hidden_states, weight, bias, targets, text_index, 1.0 / counts[text_index], num_texts, options, needs_grad
    )
